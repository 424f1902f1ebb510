"""Attempts that a router places: what is tried where, what is waited for, and what is counted."""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Sequence

import pytest

from dragoman.core.errors import BadRequest, DragomanError, EngineFailed, Overloaded, ReplicaFailed
from dragoman.core.events import Delta, Event
from dragoman.core.request import GenerationRequest
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.routing.attempts import MAX_OVERLOAD_PAUSE_SECONDS, UNKNOWN_RETRY_SECONDS
from dragoman.gateway.routing.health import FIRST_EJECTION_SECONDS, MAX_CONSECUTIVE_FAILURES
from tests.support.routed import ANSWER, Routed, turns
from tests.support.scripted_engine import Script, ScriptedEngine

LOST = ReplicaFailed("The connection was lost")
REFUSED = ReplicaFailed("Nobody listens", "refused")
LATE = ReplicaFailed("The upstream did not answer in time", "timed_out")
UNAUTHORIZED = ReplicaFailed("The upstream refuses access", "configuration")
EXHAUSTED = ReplicaFailed("This server's account at the upstream has nothing left", "exhausted")


def limited(seconds: float) -> ReplicaFailed:
    return ReplicaFailed("Too many requests", "limited", seconds)


def idle(routed: Routed) -> bool:
    return not any(map(any, routed.in_flight())) and not routed.router.leases.waiting


@pytest.mark.parametrize(
    "error", [LOST, REFUSED, LATE, UNAUTHORIZED, EXHAUSTED, limited(30.0), Overloaded("Too many wait", 3)]
)
async def test_what_one_replica_cannot_do_another_is_asked_for_at_once(error: DragomanError) -> None:
    first, second = ScriptedEngine([error]), ScriptedEngine(ANSWER)
    routed = Routed(first, second)
    assert await routed.answer() == ANSWER
    assert (first.attempts, second.attempts) == (1, 1)
    assert idle(routed)


async def test_a_replica_that_was_tried_is_tried_again_only_if_no_other_is_left() -> None:
    engines = [ScriptedEngine([LOST], ANSWER), ScriptedEngine([LOST])]
    assert await Routed(*engines).answer() == ANSWER
    assert [engine.attempts for engine in engines] == [2, 1]


async def test_a_time_limit_is_not_waited_for_again_at_a_replica_that_was_tried() -> None:
    only = ScriptedEngine([LATE], ANSWER)
    routed = Routed(only)
    with pytest.raises(ReplicaFailed, match="in time"):
        await routed.answer()
    first, second = ScriptedEngine([LATE], ANSWER), ScriptedEngine([LATE], ANSWER)
    with pytest.raises(ReplicaFailed, match="in time"):
        await Routed(first, second).answer()
    assert [engine.attempts for engine in (only, first, second)] == [1, 1, 1]
    assert idle(routed)


async def test_a_rate_limited_only_replica_is_waited_for_and_not_ejected() -> None:
    engine = ScriptedEngine([limited(0.01)], ANSWER)
    routed = Routed(engine)
    task = asyncio.create_task(routed.answer())
    await turns()
    assert (engine.attempts, routed.router.health.state("r0")) == (1, "closed")
    routed.clock.advance(0.02)
    assert await task == ANSWER
    assert idle(routed)


async def test_an_upstream_without_credit_is_not_asked_twice_and_is_taken_out() -> None:
    engine = ScriptedEngine(ANSWER, *[[EXHAUSTED]] * MAX_CONSECUTIVE_FAILURES)
    routed = Routed(engine)
    assert await routed.answer() == ANSWER
    for _ in range(MAX_CONSECUTIVE_FAILURES):
        assert routed.router.health.state("r0") == "closed"
        with pytest.raises(Overloaded, match="cannot take") as caught:
            await routed.answer()
        assert caught.value.retry_after == UNKNOWN_RETRY_SECONDS
    assert (engine.attempts, routed.router.health.state("r0")) == (1 + MAX_CONSECUTIVE_FAILURES, "ejected")


async def test_an_upstream_that_never_answered_is_taken_out_when_it_has_no_credit() -> None:
    routed = Routed(ScriptedEngine([EXHAUSTED]), ScriptedEngine(ANSWER))
    assert await routed.answer() == ANSWER
    assert routed.router.health.state("r0") == "ejected"


async def test_a_rate_limit_beyond_the_wait_is_reported_as_one() -> None:
    routed = Routed(ScriptedEngine([limited(30.0)]), wait_seconds=10.0)
    with pytest.raises(Overloaded, match="rate limited") as caught:
        await routed.answer()
    assert caught.value.retry_after == 30
    with pytest.raises(Overloaded, match="No server of the model") as caught:
        await routed.answer()
    assert caught.value.retry_after == 30, "the next request knows it without an attempt"


async def test_an_overloaded_replica_is_left_alone_for_as_long_as_it_says() -> None:
    overloaded = ReplicaFailed("status 503", retry_after=30.0)
    only = Routed(ScriptedEngine([overloaded]), wait_seconds=10.0)
    with pytest.raises(Overloaded, match="overloaded") as caught:
        await only.answer()
    assert caught.value.retry_after == 30
    first, second = ScriptedEngine([overloaded], ANSWER), ScriptedEngine(ANSWER, ANSWER)
    routed = Routed(first, second)
    for _ in range(2):
        assert await routed.answer() == ANSWER
    assert (first.attempts, second.attempts) == (1, 2)
    assert [routed.router.paused_for(name) for name in ("r0", "r1")] == [30.0, 0.0]
    hours = Routed(ScriptedEngine([ReplicaFailed("status 503", retry_after=7_200.0)]), ScriptedEngine(ANSWER))
    await hours.answer()
    assert hours.router.paused_for("r0") == MAX_OVERLOAD_PAUSE_SECONDS
    routed.clock.advance(30.0)
    assert await routed.answer() == ANSWER
    assert first.attempts == 2


async def test_a_rate_limited_replica_gets_no_request_before_its_time() -> None:
    limiting, other = ScriptedEngine([limited(30.0)], ANSWER), ScriptedEngine(ANSWER, ANSWER)
    routed = Routed(limiting, other)
    for _ in range(2):
        assert await routed.answer() == ANSWER
    assert (limiting.attempts, other.attempts) == (1, 2)
    routed.clock.advance(30.0)
    await routed.answer()
    assert limiting.attempts == 2


async def test_a_trial_whose_client_leaves_lets_the_next_one_try() -> None:
    engine = ScriptedEngine([UNAUTHORIZED], [asyncio.Event()], ANSWER)
    routed = Routed(engine, max_attempts=1)
    await routed.fail(1)
    routed.clock.advance(5.0)
    leaving = asyncio.create_task(routed.answer())
    await turns()
    assert not routed.router.health.may_attempt("r0")
    leaving.cancel()
    await turns()
    assert routed.router.health.state("r0") == "half_open"
    assert await routed.answer() == ANSWER


async def test_wrong_configuration_ejects_at_once_and_is_no_fault_of_the_client() -> None:
    routed = Routed(ScriptedEngine([UNAUTHORIZED]), wait_seconds=1.0)
    with pytest.raises(ReplicaFailed, match="refuses access"):
        await routed.answer()
    assert routed.router.health.state("r0") == "ejected"
    with pytest.raises(Overloaded) as caught:
        await routed.answer()
    assert caught.value.retry_after == 5, "it may be mended by then"


async def test_a_failing_replica_is_ejected_returns_alone_and_then_takes_its_share() -> None:
    gate = asyncio.Event()
    failing = ScriptedEngine(*[[LOST]] * MAX_CONSECUTIVE_FAILURES, [gate, *ANSWER], ANSWER, ANSWER)
    other = ScriptedEngine(*[ANSWER] * 20)
    routed = Routed(failing, other, concurrency=8)
    await routed.fail(MAX_CONSECUTIVE_FAILURES)
    assert routed.router.health.state("r0") == "ejected"
    await routed.answer()
    assert failing.attempts == MAX_CONSECUTIVE_FAILURES
    routed.clock.advance(5.0)
    trial = asyncio.create_task(routed.answer())
    await turns()
    await routed.answer()
    assert failing.attempts == MAX_CONSECUTIVE_FAILURES + 1, "one attempt at a time"
    gate.set()
    await trial
    await routed.answer()
    assert routed.router.health.state("r0") == "closed"
    assert idle(routed)


async def test_a_request_waits_for_the_return_of_the_only_replica() -> None:
    engine = ScriptedEngine(*[[REFUSED]] * MAX_CONSECUTIVE_FAILURES, ANSWER)
    routed = Routed(engine, max_attempts=1)
    await routed.fail(MAX_CONSECUTIVE_FAILURES)
    waiting = asyncio.create_task(routed.answer())
    await turns()
    routed.clock.advance(5.0)
    routed.router.watch(routed.deployment.replicas[0])
    assert await waiting == ANSWER


async def test_an_ejected_replica_is_tried_as_soon_as_its_engine_is_ready_again() -> None:
    engine, other = ScriptedEngine(*[[UNAUTHORIZED]] * 3, ANSWER), ScriptedEngine(*[ANSWER] * 20)
    routed = Routed(engine, other, max_attempts=1)
    for seconds in (5.0, 10.0):
        await routed.fail(1)
        routed.clock.advance(seconds)
    await routed.fail(1)
    routed.clock.advance(6.0)
    routed.router.watch(routed.deployment.replicas[0])
    assert routed.router.health.state("r0") == "ejected", "it was ready all the time, and there is another one"
    for is_ready, state in ((False, "ejected"), (True, "half_open")):
        engine.is_ready = is_ready
        routed.router.watch(routed.deployment.replicas[0])
        assert routed.router.health.state("r0") == state
    assert await routed.answer() == ANSWER


@pytest.mark.parametrize("reads", range(12))
async def test_the_last_replica_returns_whenever_within_a_look_at_it_the_five_seconds_end(reads: int) -> None:
    routed = Routed(ScriptedEngine([UNAUTHORIZED], [UNAUTHORIZED], ANSWER), max_attempts=1)
    [replica] = routed.deployment.replicas
    await routed.fail(times=1)
    routed.clock.advance(FIRST_EJECTION_SECONDS)
    await routed.fail(times=1)
    routed.clock.advance(FIRST_EJECTION_SECONDS - 1e-6)
    waiting = asyncio.create_task(routed.answer())
    await turns()
    routed.clock.advance_at(reads, 1e-6)
    routed.router.watch(replica)
    assert await waiting == ANSWER


async def test_the_last_replica_is_tried_every_five_seconds_however_often_it_was_ejected() -> None:
    routed = Routed(ScriptedEngine(*[[UNAUTHORIZED]] * 5, ANSWER), max_attempts=1)
    for _ in range(5):
        await routed.fail(1)
        routed.clock.advance(4.0)
        routed.router.watch(routed.deployment.replicas[0])
        assert routed.router.health.state("r0") == "ejected"
        routed.clock.advance(1.0)
        routed.router.watch(routed.deployment.replicas[0])
        assert routed.router.health.state("r0") == "half_open"
    assert await routed.answer() == ANSWER


async def test_requests_beyond_the_concurrency_wait_for_a_place_and_then_fail() -> None:
    gate = asyncio.Event()
    routed = Routed(ScriptedEngine([gate, *ANSWER], ANSWER), concurrency=1, wait_seconds=0.01)
    first = asyncio.create_task(routed.answer())
    await turns()
    with pytest.raises(Overloaded, match="No server of the model"):
        await routed.answer()
    gate.set()
    assert await first == ANSWER
    assert await routed.answer() == ANSWER


async def test_no_more_requests_wait_than_may_and_the_rest_is_told_at_once() -> None:
    engine = ScriptedEngine([asyncio.Event()])
    routed = Routed(engine, concurrency=1, max_waiting=0)
    running = asyncio.create_task(routed.answer())
    await turns()
    with pytest.raises(Overloaded):
        await routed.answer()
    running.cancel()


async def test_without_a_wait_a_request_begins_at_once_or_not_at_all() -> None:
    routed = Routed(ScriptedEngine(ANSWER, [asyncio.Event()]), concurrency=1, wait_seconds=0)
    assert await routed.answer() == ANSWER
    running = asyncio.create_task(routed.answer())
    await turns()
    with pytest.raises(Overloaded):
        await routed.answer()
    running.cancel()


async def test_an_outage_does_not_multiply_the_load() -> None:
    engines = [ScriptedEngine(*[[LOST]] * 400) for _ in range(3)]
    routed = Routed(*engines)
    await routed.fail(200)
    assert sum(engine.attempts for engine in engines) <= 200 + 0.2 * 200 + 30, "the retry budget"


async def test_a_refused_request_is_no_failure_of_its_replica() -> None:
    refused: Script = [BadRequest("Too long", "prompt")]
    routed = Routed(ScriptedEngine(*[refused] * 10), ScriptedEngine())
    await routed.fail(10)
    assert routed.router.health.state("r0") == "closed"


async def test_failures_after_the_first_token_count_and_are_not_repeated() -> None:
    broken: Script = [Delta(0, "b", [98]), EngineFailed("The connection was lost")]
    failing, other = ScriptedEngine(*[broken] * MAX_CONSECUTIVE_FAILURES), ScriptedEngine(ANSWER)
    routed = Routed(failing, other)
    await routed.fail(MAX_CONSECUTIVE_FAILURES)
    assert other.attempts == 0
    assert routed.router.health.state("r0") == "ejected"


async def test_a_draining_deployment_refuses_at_once() -> None:
    routed = Routed(ScriptedEngine(ANSWER))
    routed.router.health.drain("r0")
    with pytest.raises(Overloaded):
        await routed.answer()
    routed.router.undrain("r0")
    assert await routed.answer() == ANSWER


class FlakyEngine(EchoEngine):
    """Fails, refuses, hangs or answers at random, before or after the first token."""

    def __init__(self, source: random.Random) -> None:
        super().__init__()
        self._source = source
        self.running = 0

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        self.running += 1
        try:
            for _ in range(self._source.randrange(4)):
                await asyncio.sleep(0)
            match self._source.randrange(8):
                case 0:
                    raise LOST
                case 1:
                    raise limited(0.001)
                case 2:
                    yield ANSWER[1]
                    raise EngineFailed("The connection was lost")
                case 3:
                    await asyncio.Event().wait()
            for event in ANSWER:
                yield event
                await asyncio.sleep(0)
        finally:
            self.running -= 1


async def _cancelled_at_random(routed: Routed, source: random.Random) -> None:
    task = asyncio.create_task(routed.answer())
    for _ in range(source.randrange(60)):
        await asyncio.sleep(0)
        routed.clock.advance(source.random() * 0.01)
    task.cancel()
    with contextlib.suppress(DragomanError, asyncio.CancelledError):
        await task


@pytest.mark.parametrize("seed", range(5))
async def test_nothing_stays_in_flight_whatever_becomes_of_the_requests(seed: int) -> None:
    source = random.Random(seed)
    engines: Sequence[FlakyEngine] = [FlakyEngine(source) for _ in range(3)]
    routed = Routed(*engines, concurrency=2, policy="cache")
    await asyncio.gather(*(_cancelled_at_random(routed, source) for _ in range(300)))
    assert idle(routed)
    assert not any(engine.running for engine in engines)
    routed.clock.advance(1_000.0)
    places = [routed.router.health.may_attempt(replica.name) for replica in routed.deployment.replicas]
    assert all(places), "no half-open replica waits for an attempt that has ended"
