"""Which replica an attempt goes to, by what is cached there and by the load of others."""

import random

import pytest

from dragoman.core.capabilities import ALL_CAPABILITIES, Capability
from dragoman.core.request import ChatPrompt, GenerationRequest, Message, TextPrompt
from dragoman.engines.echo import EchoEngine
from dragoman.engines.reported_load import LoadReports, ReportedLoad
from dragoman.gateway.execution.request_execution import generate
from dragoman.gateway.routing.catalog import Deployment
from dragoman.gateway.routing.replica import Replica
from dragoman.gateway.routing.router import Router
from dragoman.gateway.routing.router_options import PolicyName, RouterOptions
from tests.support.manual_clock import ManualClock
from tests.support.routed import ANSWER, REQUEST, Routed
from tests.support.scripted_engine import ScriptedEngine


async def test_conversations_return_to_the_replica_that_has_their_beginning() -> None:
    engines = [EchoEngine() for _ in range(4)]
    routed = Routed(*engines, policy="cache")

    def turn(text: str, turns: int) -> GenerationRequest:
        messages = (Message(role="user", content=text * 600),) * turns
        return GenerationRequest(model="m", prompt=ChatPrompt(messages=messages))

    for text in "abcdefgh":
        await routed.answer(turn(text, 1))
    prefixes = routed.router.prefixes
    before = {name: prefixes.count_blocks(name) for name in ("r0", "r1", "r2", "r3")}
    assert all(before.values()), "cold ones are spread"
    for text in "abcdefgh":
        await routed.answer(turn(text, 2))
    assert sum(prefixes.count_blocks(name) for name in before) == 8 * 2, "nothing is cached twice"


@pytest.mark.parametrize("isolates", [True, False])
async def test_owners_have_prefixes_in_common_only_where_the_engine_shares_them(isolates: bool) -> None:
    removed: set[Capability] = set() if isolates else {"prefix_isolation"}
    engines = [ScriptedEngine(*[ANSWER] * 8, capabilities=ALL_CAPABILITIES - removed) for _ in range(4)]
    routed = Routed(*engines, policy="cache")
    prompt = TextPrompt("a" * 8_000)
    for owner in "abcdefgh":
        await routed.answer(GenerationRequest(model="m", prompt=prompt, owner=owner))
    assert (max(engine.attempts for engine in engines) < 8) == isolates


async def test_each_replica_is_asked_for_what_it_has_cached_in_its_own_way() -> None:
    isolating = ScriptedEngine(*[ANSWER] * 4)
    sharing = ScriptedEngine(*[ANSWER] * 4, capabilities=ALL_CAPABILITIES - {"prefix_isolation"})
    routed = Routed(isolating, sharing, policy="cache")
    for owner in ("a", "a", "b", "b"):
        await routed.answer(GenerationRequest(model="m", prompt=TextPrompt("a" * 8_000), owner=owner))
    blocks = [routed.router.prefixes.count_blocks(name) for name in ("r0", "r1")]
    assert blocks in ([0, 8_000 // 512], [8_000 // 512, 8_000 // 512])
    assert (isolating.attempts, sharing.attempts) in ((0, 4), (2, 2))


@pytest.mark.parametrize("policy", ["least", "cache"])
async def test_a_replica_that_others_keep_busy_is_spared_while_its_report_is_fresh(policy: PolicyName) -> None:
    engines = [ScriptedEngine(*[ANSWER] * 20) for _ in range(2)]
    clock = ManualClock()
    reports = LoadReports(10.0, clock)
    router = Router(RouterOptions(policy=policy), clock=clock, source=random.Random(1))
    replicas = (Replica("r0", engines[0], is_upstream=True, load_reports=reports), Replica("r1", engines[1]))
    for replica in replicas:
        router.add(replica, is_new=False)
    deployment = Deployment(name="m", replicas=replicas, router=router)
    reports.report(ReportedLoad(other_requests=40, cache_tokens=1_280))
    for _ in range(10):
        assert [event async for event in generate(deployment, REQUEST)] == ANSWER
    assert (engines[0].attempts, engines[1].attempts) == (0, 10)
    clock.advance(11.0)
    for _ in range(10):
        assert [event async for event in generate(deployment, REQUEST)] == ANSWER
    assert engines[0].attempts > 0


async def test_no_more_of_a_prompt_is_taken_for_cached_than_the_replicas_cache_holds() -> None:
    routed = Routed(EchoEngine(context_length=100_000), EchoEngine(), policy="cache", cache_tokens=1_000)
    await routed.answer(GenerationRequest(model="m", prompt=TextPrompt("a" * 8_000)))
    assert max(routed.router.prefixes.count_blocks(name) for name in ("r0", "r1")) == 1_000 // 128
