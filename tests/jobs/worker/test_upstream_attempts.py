"""Queued jobs on other servers, which cannot resume an answer: its tokens are not known, and the model may change."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from dragoman.core.errors import EngineFailed, ReplicaFailed, ShuttingDown
from dragoman.core.events import Event
from dragoman.core.request import GenerationRequest, TextPrompt
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.routing.catalog import Deployment
from dragoman.gateway.routing.replica import Replica
from dragoman.gateway.routing.router_options import RouterOptions
from dragoman.jobs.values.options import QueueOptions
from tests.support.echo_engines import BreakingEcho, FailurePoint, GatedEcho
from tests.support.jobs.queue_harness import QueueHarness, queue_server, text_of, wait_until
from tests.support.ledger_harness import COMPLETION_PRICE, PROMPT_PRICE
from tests.support.metered import MODEL
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

TEXT = "the answer"
DIED = EngineFailed("The upstream failed while it was answering")
REFUSED = ReplicaFailed("The upstream cannot be reached", "refused")
DENIED = ReplicaFailed("The upstream refuses access or knows no such model", "configuration")


class _Filter(EchoEngine):
    """Refuses one text, as a content filter before an upstream does."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        if request.prompt == TextPrompt("forbidden"):
            raise ReplicaFailed(DENIED.message, DENIED.fault)
        async for event in super().generate(request):
            yield event


def upstreams(*engines: EchoEngine) -> Deployment:
    for engine in engines:
        engine.fingerprint = None
    replicas = tuple(Replica(f"{MODEL}/{number}", each, is_upstream=True) for number, each in enumerate(engines))
    return Deployment(name=MODEL, replicas=replicas, routing=RouterOptions(policy="first"))


async def test_a_job_goes_to_the_next_upstream_if_one_fails_before_its_first_token(
    harness: QueueHarness, journals: Path
) -> None:
    first, second = BreakingEcho(FailurePoint(0, REFUSED)), BreakingEcho()
    async with queue_server(harness, journals, engine=upstreams(first, second)) as server:
        job = await server.submit(TEXT)
        assert text_of(await server.read(job.id)) == TEXT
    assert len(second.received_requests) == 1
    assert harness.job_row(job.id).attempts == 1, "for the queue it is one attempt"
    harness.assert_settled()


@pytest.mark.parametrize("error", [REFUSED, DENIED], ids=["unreachable", "with a wrong key"])
async def test_a_job_waits_for_an_upstream_that_its_operator_must_mend(
    harness: QueueHarness, journals: Path, error: ReplicaFailed
) -> None:
    engine = BreakingEcho(FailurePoint(0, error))
    deployment = upstreams(engine)
    deployment.max_attempts = 1
    async with queue_server(harness, journals, engine=deployment, options=QueueOptions(max_attempts=1)) as server:
        job = await server.submit(TEXT)
        assert text_of(await server.read(job.id)) == TEXT
    harness.assert_settled()


async def test_a_job_that_is_refused_while_others_are_answered_fails_with_the_reason(
    harness: QueueHarness, journals: Path
) -> None:
    engine = upstreams(_Filter())
    async with queue_server(harness, journals, engine=engine, options=QueueOptions(max_attempts=2)) as server:
        await server.read((await server.submit(TEXT)).id)  # An upstream that has answered nobody is taken out at once.
        job = await server.submit("forbidden")
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while harness.job_row(job.id).state != "failed":
                await server.read((await server.submit(TEXT)).id)
        with pytest.raises(EngineFailed, match="refuses access"):
            await server.read(job.id)
    harness.assert_settled()


async def test_a_job_whose_upstream_dies_starts_from_nothing_while_nobody_has_read_of_its_answer(
    harness: QueueHarness, journals: Path
) -> None:
    engine = BreakingEcho(FailurePoint(5, DIED))
    async with queue_server(harness, journals, engine=upstreams(engine)) as server:
        job = await server.submit(TEXT)
        await wait_until(lambda: harness.job_row(job.id).state == "finished")
        assert text_of(await server.read(job.id)) == TEXT
    assert [request.resume_token_ids for request in engine.received_requests] == [(), ()]
    harness.assert_settled()
    [used] = harness.usage
    assert used.charge == len(TEXT) * PROMPT_PRICE + used.completion_tokens * COMPLETION_PRICE


async def test_a_job_whose_upstream_dies_fails_once_somebody_may_have_read_a_part(
    harness: QueueHarness, journals: Path
) -> None:
    engine = BreakingEcho(FailurePoint(5))
    deployment = upstreams(engine)
    async with queue_server(harness, journals, engine=deployment) as server:
        job = await server.submit(TEXT)
        async with server.open_stream(job.id) as events:
            await anext(events)
            await wait_until(lambda: harness.job_row(job.id).completion_tokens == 5)
            async with queue_server(harness, journals, engine=upstreams(BreakingEcho())):
                harness.update_job(job.id, lease_until=0)
                with pytest.raises(EngineFailed, match="cannot go on"):
                    async for _ in events:
                        pass
    [used] = harness.usage
    assert (used.completion_tokens, used.usage_source) == (5, "partial")
    harness.assert_settled()


async def test_a_draining_server_ends_the_answers_that_no_other_can_go_on_with(
    harness: QueueHarness, journals: Path
) -> None:
    engine = GatedEcho(is_open=False)
    async with queue_server(harness, journals, engine=upstreams(engine)) as server:
        job = await server.submit(TEXT)
        async with server.open_stream(job.id) as events:
            await anext(events)
            server.gateway.drain()
            with pytest.raises(ShuttingDown):
                async for _ in events:
                    pass
        engine.gate.set()
        await wait_until(lambda: harness.job_row(job.id).state == "finished")
    assert [used.result for used in harness.usage] == ["finished"]
    harness.assert_settled()


async def test_a_retired_server_ends_the_answers_that_no_other_can_go_on_with(
    harness: QueueHarness, journals: Path
) -> None:
    engine = GatedEcho(is_open=False)
    async with queue_server(harness, journals, engine=upstreams(engine)) as old:
        job = await old.submit(TEXT)
        async with old.open_stream(job.id) as events:
            received = [await anext(events)]
            old.queue.retire()
            async with queue_server(harness, journals, engine=upstreams(BreakingEcho())) as new:
                late = await old.submit("late")
                assert text_of(await new.read(late.id)) == "late"
                engine.gate.set()
                received += [event async for event in events]
    assert text_of(received) == TEXT
    assert harness.job_row(job.id).attempts == 1
    harness.assert_settled()
