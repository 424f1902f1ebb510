"""Attempts to have a request answered by one of a deployment's replicas."""

import contextlib

import pytest

from dragoman.core.capabilities import ALL_CAPABILITIES
from dragoman.core.errors import BadRequest, DragomanError, EngineFailed, Overloaded, ReplicaFailed
from dragoman.core.events import Delta, Event, Finished, Started, Unenforced, Usage
from dragoman.core.request import GenerationRequest, JsonObjectFormat, RegexFormat, TextPrompt
from dragoman.gateway.execution.request_execution import generate
from dragoman.gateway.routing.catalog import Deployment
from dragoman.gateway.routing.replica import Replica
from dragoman.gateway.routing.router_options import RouterOptions
from tests.support.scripted_engine import ScriptedEngine

REQUEST = GenerationRequest(model="m", prompt=TextPrompt("a"))
ANSWER: list[Event] = [Started(1, 0), Delta(0, "b", [98]), Finished(0, "stop"), Usage(1, 1, 0)]
LOST = ReplicaFailed("The engine stopped")
BUSY = Overloaded("Too many wait", retry_after=3)


def deployment(*engines: ScriptedEngine) -> Deployment:
    replicas = tuple(Replica(f"r{number}", each) for number, each in enumerate(engines))
    return Deployment(name="m", replicas=replicas, routing=RouterOptions(policy="first"))


async def answer(*engines: ScriptedEngine, request: GenerationRequest = REQUEST) -> list[Event]:
    events = [event async for event in generate(deployment(*engines), request)]
    assert not any(engine.running for engine in engines)
    return events


@pytest.mark.parametrize("error", [LOST, BUSY])
async def test_a_replica_that_fails_before_its_first_token_is_followed_by_another(error: DragomanError) -> None:
    first, second = ScriptedEngine([Unenforced(0, ["x"]), error]), ScriptedEngine([Unenforced(0, ["x"]), *ANSWER])
    assert await answer(first, second) == [Unenforced(0, ["x"]), *ANSWER], (
        "what was not followed by a token is not sent"
    )
    assert (first.attempts, second.attempts) == (1, 1)


async def test_a_lost_request_is_sent_to_the_only_replica_again() -> None:
    engine = ScriptedEngine([LOST], [LOST], ANSWER)
    assert await answer(engine) == ANSWER
    assert engine.attempts == 3


async def test_a_request_that_meets_repeated_failures_fails() -> None:
    engine = ScriptedEngine([LOST], [LOST], [LOST], ANSWER)
    with pytest.raises(ReplicaFailed):
        await answer(engine)
    assert engine.attempts == 3


async def test_an_only_replica_that_is_overloaded_is_not_asked_again() -> None:
    engine = ScriptedEngine([BUSY], ANSWER)
    with pytest.raises(Overloaded):
        await answer(engine)
    assert engine.attempts == 1


async def test_no_other_replica_is_asked_after_the_first_token() -> None:
    engine = ScriptedEngine([Delta(0, "b", [98]), EngineFailed("The engine stopped")])
    other = ScriptedEngine(ANSWER)
    with pytest.raises(EngineFailed):
        await answer(engine, other)
    assert other.attempts == 0


async def test_a_refused_request_is_not_asked_of_another_replica() -> None:
    refusing, other = ScriptedEngine([BadRequest("Too long", "prompt")]), ScriptedEngine(ANSWER)
    with pytest.raises(BadRequest, match="Too long"):
        await answer(refusing, other)
    assert other.attempts == 0


async def test_a_replica_that_is_ready_is_asked_first() -> None:
    loading, ready = ScriptedEngine(ANSWER, ready=False), ScriptedEngine(ANSWER)
    assert await answer(loading, ready) == ANSWER
    assert (loading.attempts, ready.attempts) == (0, 1)


async def test_only_replicas_that_can_do_what_a_request_needs_are_asked() -> None:
    plain = ScriptedEngine(ANSWER, capabilities=ALL_CAPABILITIES - {"json_object"})
    able = ScriptedEngine(ANSWER)
    request = GenerationRequest(model="m", prompt=TextPrompt("a"), response_format=JsonObjectFormat())
    assert await answer(plain, able, request=request) == ANSWER
    assert (plain.attempts, able.attempts) == (0, 1)


def test_what_no_replica_can_do_is_refused_by_name() -> None:
    request = GenerationRequest(model="m", prompt=TextPrompt("a"), response_format=RegexFormat("a+"))
    engines = [ScriptedEngine(capabilities=ALL_CAPABILITIES - {"regex"}) for _ in range(2)]
    with pytest.raises(BadRequest, match=r"'m' does not support .* regular expression") as caught:
        deployment(*engines).candidates(request)
    assert caught.value.parameter == "response_format"


async def test_closing_early_ends_the_attempt() -> None:
    engine = ScriptedEngine(ANSWER)
    async with contextlib.aclosing(generate(deployment(engine), REQUEST)) as events:
        assert await anext(events) == ANSWER[0]
    assert engine.running == 0
