"""Jobs whose engines, processes or clients fail: each ends once, is paid once, and never changes delivered text."""

import asyncio
from pathlib import Path

import pytest

from dragoman.core.errors import BadRequest, EngineFailed, JobCancelled, JobTimedOut, ModelLoading, ShuttingDown
from dragoman.core.events import Usage
from dragoman.jobs.values.options import QueueOptions
from tests.support.echo_engines import BreakingEcho, FailurePoint
from tests.support.jobs.queue_harness import ACCEPT_ONLY, QueueHarness, queue_server, text_of, wait_until
from tests.support.metered import cost

TEXT = "a parrot says what it was told"
END_TOKENS = 1
FAILURE = EngineFailed("The engine fell over")


def charges(harness: QueueHarness) -> list[tuple[str, int]]:
    return [(used.result, used.charge) for used in harness.usage]


FULL_CHARGE = [("finished", cost(len(TEXT), len(TEXT) + END_TOKENS))]


async def test_an_answer_resumes_after_the_stored_events_when_the_engine_breaks(
    harness: QueueHarness, journals: Path
) -> None:
    engine = BreakingEcho(FailurePoint(5, FAILURE), FailurePoint(11, FAILURE))
    async with queue_server(harness, journals, engine=engine) as server:
        job = await server.submit(TEXT)
        events = await server.read(job.id)
    assert text_of(events) == TEXT
    assert events[-1] == Usage(len(TEXT), len(TEXT) + END_TOKENS, 0)
    assert [len(choice) for request in engine.received_requests for choice in request.resume_token_ids] == [5, 11]
    assert charges(harness) == FULL_CHARGE
    harness.assert_settled()


async def test_every_choice_of_every_prompt_resumes_where_it_stopped(harness: QueueHarness, journals: Path) -> None:
    engine = BreakingEcho(FailurePoint(7, FAILURE))
    async with queue_server(harness, journals, engine=engine) as server:
        job = await server.submit(TEXT, n=3)
        events = await server.read(job.id)
    assert [text_of(events, index) for index in range(3)] == [TEXT] * 3
    assert [tuple(map(len, request.resume_token_ids)) for request in engine.received_requests] == [(), (3, 2, 2)]
    assert charges(harness) == [("finished", cost(len(TEXT), 3 * (len(TEXT) + END_TOKENS)))]
    harness.assert_settled()


async def test_a_job_without_progress_fails_and_costs_nothing(harness: QueueHarness, journals: Path) -> None:
    engine = BreakingEcho(*[FailurePoint(0, FAILURE)] * 3)
    async with queue_server(harness, journals, engine=engine) as server:
        job = await server.submit(TEXT)
        with pytest.raises(EngineFailed, match="fell over"):
            await server.read(job.id)
        failed_job = await server.job(job.id)
        assert (failed_job.state, str(failed_job.error)) == ("failed", str(FAILURE))
    assert len(engine.received_requests) == 3
    assert charges(harness) == [("failed", 0)]
    harness.assert_settled()


async def test_progress_resets_the_attempt_count(harness: QueueHarness, journals: Path) -> None:
    engine = BreakingEcho(*(FailurePoint(tokens, FAILURE) for tokens in (0, 1, 1, 2)))
    async with queue_server(harness, journals, engine=engine, options=QueueOptions(max_attempts=2)) as server:
        job = await server.submit(TEXT)
        assert text_of(await server.read(job.id)) == TEXT
    assert len(engine.received_requests) == 5


async def test_waiting_for_a_loading_model_does_not_count_as_an_attempt(harness: QueueHarness, journals: Path) -> None:
    engine = BreakingEcho(*[FailurePoint(0, ModelLoading("The model is being loaded", 1))] * 2)
    async with queue_server(harness, journals, engine=engine, options=QueueOptions(max_attempts=1)) as server:
        job = await server.submit(TEXT)
        assert text_of(await server.read(job.id)) == TEXT
        assert harness.job_row(job.id).attempts <= 1
    assert charges(harness) == FULL_CHARGE


async def test_a_bad_request_is_not_retried(harness: QueueHarness, journals: Path) -> None:
    engine = BreakingEcho(FailurePoint(0, BadRequest("The grammar is no grammar", "grammar")))
    async with queue_server(harness, journals, engine=engine) as server:
        job = await server.submit(TEXT)
        with pytest.raises(BadRequest, match="no grammar") as failed:
            await server.read(job.id)
    assert failed.value.parameter == "grammar"
    assert len(engine.received_requests) == 1
    assert charges(harness) == [("failed", 0)]


async def test_an_answer_that_cannot_resume_restarts_while_it_is_undelivered(
    harness: QueueHarness, journals: Path
) -> None:
    engine = BreakingEcho(FailurePoint(5, FAILURE), FailurePoint(7, FAILURE))
    async with queue_server(harness, journals, engine=engine) as server:
        job = await server.submit(TEXT, logprobs=0)
        await wait_until(lambda: harness.job_row(job.id).state == "finished")
        assert text_of(await server.read(job.id)) == TEXT
        assert len(engine.received_requests) == 3
        assert harness.job_row(job.id).completion_tokens == len(TEXT) + END_TOKENS
    assert charges(harness) == FULL_CHARGE
    harness.assert_settled()


async def test_an_answer_that_cannot_resume_fails_once_it_was_delivered(harness: QueueHarness, journals: Path) -> None:
    engine = BreakingEcho(FailurePoint(5, None))
    async with queue_server(harness, journals, engine=engine) as server:
        job = await server.submit(TEXT, logprobs=0)
        async with server.open_stream(job.id) as events:
            await anext(events)
            await _wait_until_stored(harness, job.id, 5)
            async with queue_server(harness, journals) as other:
                harness.update_job(job.id, lease_until=0)
                with pytest.raises(EngineFailed, match="cannot go on"):
                    async for _ in events:
                        pass
                assert (await other.job(job.id)).state == "failed"
    assert charges(harness) == [("failed", cost(len(TEXT), 5))]
    harness.assert_settled()


async def test_an_answer_of_another_model_is_not_resumed(harness: QueueHarness, journals: Path) -> None:
    changed = BreakingEcho(fingerprint="another")
    async with queue_server(harness, journals, engine=BreakingEcho(FailurePoint(5))) as server:
        job = await server.submit(TEXT)
        await _wait_until_stored(harness, job.id, 5)
    async with queue_server(harness, journals, engine=changed) as other:
        await wait_until(lambda: harness.job_row(job.id).state == "finished")
        assert text_of(await other.read(job.id)) == TEXT
    assert [request.resume_token_ids for request in changed.received_requests] == [()]
    assert charges(harness) == FULL_CHARGE


async def test_a_running_job_that_is_cancelled_pays_for_its_stored_tokens(
    harness: QueueHarness, journals: Path
) -> None:
    engine = BreakingEcho(FailurePoint(5))
    async with queue_server(harness, journals, engine=engine) as server:
        job = await server.submit(TEXT)
        await _wait_until_stored(harness, job.id, 5)
        assert (await server.cancel(job.id)).state == "cancelled"
        assert not server.queue.running, "the next renewal of leases need not be waited for"
        with pytest.raises(JobCancelled):
            await server.read(job.id)
        assert (await server.cancel(job.id)).state == "cancelled"
        later = await server.submit("the place is free")
        assert text_of(await server.read(later.id)) == "the place is free"
    assert engine.cancelled == 1
    assert charges(harness)[-1] == ("disconnected", cost(len(TEXT), 5))
    harness.assert_settled()


async def test_a_server_can_cancel_a_job_that_runs_on_another(harness: QueueHarness, journals: Path) -> None:
    engine = BreakingEcho(FailurePoint(5))
    async with (
        queue_server(harness, journals, engine=engine) as server,
        queue_server(harness, journals, options=ACCEPT_ONLY) as other,
    ):
        job = await other.submit(TEXT)
        await _wait_until_stored(harness, job.id, 5)
        await other.cancel(job.id)
        await wait_until(lambda: not server.queue.running)
    assert engine.cancelled == 1
    assert charges(harness) == [("disconnected", cost(len(TEXT), 5))]
    harness.assert_settled()


@pytest.mark.parametrize("lease_until", [0, 2**60], ids=["over", "of a clock set back"])
async def test_another_server_takes_over_an_expired_lease_and_the_first_stops_writing(
    harness: QueueHarness, journals: Path, lease_until: int
) -> None:
    engine = BreakingEcho(FailurePoint(5))
    second = BreakingEcho()
    async with queue_server(harness, journals, engine=engine) as server:
        job = await server.submit(TEXT)
        await _wait_until_stored(harness, job.id, 5)
        async with queue_server(harness, journals, engine=second, options=QueueOptions(max_attempts=1)) as other:
            harness.update_job(job.id, lease_until=lease_until)
            assert text_of(await other.read(job.id)) == TEXT
            assert [
                len(choice)
                for request in engine.received_requests + second.received_requests
                for choice in request.resume_token_ids
            ] == [5]
            await wait_until(lambda: not server.queue.running)
    assert engine.cancelled == 1
    assert charges(harness) == FULL_CHARGE
    harness.assert_settled()


async def test_a_job_whose_processes_keep_dying_fails(harness: QueueHarness, journals: Path) -> None:
    engine = BreakingEcho(*[FailurePoint(0)] * 3)
    async with queue_server(harness, journals, engine=engine) as server:
        job = await server.submit(TEXT)
        for _ in range(3):
            await engine.waiting.wait()
            engine.waiting.clear()
            harness.update_job(job.id, lease_until=0)
        with pytest.raises(EngineFailed, match="died 3 times"):
            await server.read(job.id)
    assert charges(harness) == [("failed", 0)]
    harness.assert_settled()


async def test_a_server_that_shuts_down_requeues_its_jobs_at_once(harness: QueueHarness, journals: Path) -> None:
    engine = BreakingEcho(FailurePoint(5))
    async with queue_server(harness, journals, engine=engine) as server:
        job = await server.submit(TEXT)
        await _wait_until_stored(harness, job.id, 5)
        waiting = asyncio.create_task(server.read(job.id))
        await asyncio.sleep(0)
        server.gateway.drain()
        with pytest.raises(ShuttingDown):
            await waiting
        with pytest.raises(ShuttingDown):
            await server.submit(TEXT)
    assert (harness.job_row(job.id).state, harness.job_row(job.id).attempts) == ("queued", 0)
    async with queue_server(harness, journals, engine=BreakingEcho()) as other:
        assert text_of(await other.read(job.id)) == TEXT
    assert charges(harness) == FULL_CHARGE
    harness.assert_settled()


async def test_a_job_with_a_waiting_client_times_out_in_the_queue(harness: QueueHarness, journals: Path) -> None:
    options = QueueOptions(concurrency=0, client_wait_seconds=0.1)
    async with queue_server(harness, journals, options=options) as server:
        patient = await server.submit(TEXT)
        overdue = await server.submit(TEXT, client_waits=True)
        with pytest.raises(JobTimedOut):
            await server.read(overdue.id)
        assert (await server.job(overdue.id)).state == "failed"
        assert (await server.job(patient.id)).state == "queued"
        await server.cancel(patient.id)
    harness.assert_settled()


async def test_best_of_pays_for_all_candidates(harness: QueueHarness, journals: Path) -> None:
    async with queue_server(harness, journals) as server:
        job = await server.submit(TEXT, best_of=3)
        assert text_of(await server.read(job.id)) == TEXT
    assert charges(harness) == [("finished", cost(len(TEXT), 3 * (len(TEXT) + END_TOKENS)))]


async def _wait_until_stored(harness: QueueHarness, job_id: str, tokens: int) -> None:
    """Wait until this many tokens are stored."""
    await wait_until(lambda: bool(harness.job_row(job_id).completion_tokens >= tokens))
