"""Jobs whose engines, processes or clients do not last: each ends once, is paid once, and says what it said before."""

import asyncio
from pathlib import Path

import pytest

from dragoman.core.errors import BadRequest, EngineFailed, JobCancelled, JobTimedOut, ModelLoading, ShuttingDown
from dragoman.core.events import Usage
from dragoman.jobs.options import QueueOptions
from tests.support.breaking_echo import Break, BreakingEcho
from tests.support.metered import cost
from tests.support.queues import Shop, said, server, until

TAKES_IN = QueueOptions(concurrency=0)
TEXT = "a parrot says what it was told"
END = 1
FAILURE = EngineFailed("The engine fell over")


@pytest.fixture
def journals(tmp_path: Path) -> Path:
    return tmp_path / "journals"


def charges(shop: Shop) -> list[tuple[str, int]]:
    return [(used.result, used.charge) for used in shop.usage]


WHOLE = [("finished", cost(len(TEXT), len(TEXT) + END))]


async def test_an_answer_goes_on_after_what_is_stored_when_the_engine_breaks(shop: Shop, journals: Path) -> None:
    engine = BreakingEcho(Break(5, FAILURE), Break(11, FAILURE))
    async with server(shop, journals, engine=engine) as one:
        job = await one.submit(TEXT)
        events = await one.read(job.id)
    assert said(events) == TEXT
    assert events[-1] == Usage(len(TEXT), len(TEXT) + END, 0)
    assert [len(choice) for request in engine.asked for choice in request.begun] == [5, 11]
    assert charges(shop) == WHOLE
    shop.assert_settled()


async def test_every_choice_of_every_prompt_goes_on_where_it_was(shop: Shop, journals: Path) -> None:
    engine = BreakingEcho(Break(7, FAILURE))
    async with server(shop, journals, engine=engine) as one:
        job = await one.submit(TEXT, n=3)
        events = await one.read(job.id)
    assert [said(events, index) for index in range(3)] == [TEXT] * 3
    assert [tuple(map(len, request.begun)) for request in engine.asked] == [(), (3, 2, 2)]
    assert charges(shop) == [("finished", cost(len(TEXT), 3 * (len(TEXT) + END)))]
    shop.assert_settled()


async def test_a_job_fails_that_comes_no_further_and_costs_nothing(shop: Shop, journals: Path) -> None:
    engine = BreakingEcho(*[Break(0, FAILURE)] * 3)
    async with server(shop, journals, engine=engine) as one:
        job = await one.submit(TEXT)
        with pytest.raises(EngineFailed, match="fell over"):
            await one.read(job.id)
        told = await one.job(job.id)
        assert (told.state, str(told.error)) == ("failed", str(FAILURE))
    assert len(engine.asked) == 3
    assert charges(shop) == [("failed", 0)]
    shop.assert_settled()


async def test_progress_makes_the_attempts_count_anew(shop: Shop, journals: Path) -> None:
    engine = BreakingEcho(*(Break(tokens, FAILURE) for tokens in (0, 1, 1, 2)))
    async with server(shop, journals, engine=engine, options=QueueOptions(max_attempts=2)) as one:
        job = await one.submit(TEXT)
        assert said(await one.read(job.id)) == TEXT
    assert len(engine.asked) == 5


async def test_a_job_waits_for_a_model_that_is_loading_however_long(shop: Shop, journals: Path) -> None:
    engine = BreakingEcho(*[Break(0, ModelLoading("The model is being loaded", 1))] * 2)
    async with server(shop, journals, engine=engine, options=QueueOptions(max_attempts=1)) as one:
        job = await one.submit(TEXT)
        assert said(await one.read(job.id)) == TEXT
        assert shop.row(job.id).attempts <= 1
    assert charges(shop) == WHOLE


async def test_a_bad_request_is_not_tried_again(shop: Shop, journals: Path) -> None:
    engine = BreakingEcho(Break(0, BadRequest("The grammar is no grammar", "grammar")))
    async with server(shop, journals, engine=engine) as one:
        job = await one.submit(TEXT)
        with pytest.raises(BadRequest, match="no grammar") as failed:
            await one.read(job.id)
    assert failed.value.parameter == "grammar"
    assert len(engine.asked) == 1
    assert charges(shop) == [("failed", 0)]


async def test_an_answer_that_cannot_go_on_begins_anew_as_long_as_nobody_has_read_from_it(
    shop: Shop, journals: Path
) -> None:
    engine = BreakingEcho(Break(5, FAILURE), Break(7, FAILURE))
    async with server(shop, journals, engine=engine) as one:
        job = await one.submit(TEXT, logprobs=0)
        await until(lambda: shop.row(job.id).state == "finished")
        assert said(await one.read(job.id)) == TEXT
        assert len(engine.asked) == 3
        assert shop.row(job.id).completion_tokens == len(TEXT) + END
    assert charges(shop) == WHOLE
    shop.assert_settled()


async def test_an_answer_that_cannot_go_on_fails_when_somebody_has_read_from_it(shop: Shop, journals: Path) -> None:
    engine = BreakingEcho(Break(5, None))
    async with server(shop, journals, engine=engine) as one:
        job = await one.submit(TEXT, logprobs=0)
        async with one.following(job.id) as events:
            await anext(events)
            await _stored(shop, job.id, 5)
            async with server(shop, journals) as other:
                shop.change(job.id, lease_until=0)
                with pytest.raises(EngineFailed, match="cannot go on"):
                    async for _ in events:
                        pass
                assert (await other.job(job.id)).state == "failed"
    assert charges(shop) == [("failed", cost(len(TEXT), 5))]
    shop.assert_settled()


async def test_an_answer_of_another_model_is_not_gone_on_with(shop: Shop, journals: Path) -> None:
    changed = BreakingEcho(fingerprint="another")
    async with server(shop, journals, engine=BreakingEcho(Break(5))) as one:
        job = await one.submit(TEXT)
        await _stored(shop, job.id, 5)
    async with server(shop, journals, engine=changed) as other:
        await until(lambda: shop.row(job.id).state == "finished")
        assert said(await other.read(job.id)) == TEXT
    assert [request.begun for request in changed.asked] == [()]
    assert charges(shop) == WHOLE


async def test_a_job_in_work_that_is_cancelled_pays_for_what_it_has(shop: Shop, journals: Path) -> None:
    engine = BreakingEcho(Break(5))
    async with server(shop, journals, engine=engine) as one:
        job = await one.submit(TEXT)
        await _stored(shop, job.id, 5)
        assert (await one.cancel(job.id)).state == "cancelled"
        with pytest.raises(JobCancelled):
            await one.read(job.id)
        assert (await one.cancel(job.id)).state == "cancelled"
        later = await one.submit("the place is free")
        assert said(await one.read(later.id)) == "the place is free"
    assert engine.cancelled == 1
    assert charges(shop)[-1] == ("disconnected", cost(len(TEXT), 5))
    shop.assert_settled()


async def test_another_server_may_cancel_what_one_runs(shop: Shop, journals: Path) -> None:
    engine = BreakingEcho(Break(5))
    async with server(shop, journals, engine=engine) as one, server(shop, journals, options=TAKES_IN) as other:
        job = await other.submit(TEXT)
        await _stored(shop, job.id, 5)
        await other.cancel(job.id)
        await until(lambda: not one.queue.running)
    assert engine.cancelled == 1
    assert charges(shop) == [("disconnected", cost(len(TEXT), 5))]
    shop.assert_settled()


@pytest.mark.parametrize("lease_until", [0, 2**60], ids=["over", "of a clock set back"])
async def test_another_server_takes_over_when_the_lease_is_over_and_the_first_one_writes_no_more(
    shop: Shop, journals: Path, lease_until: int
) -> None:
    engine = BreakingEcho(Break(5))
    second = BreakingEcho()
    async with server(shop, journals, engine=engine) as one:
        job = await one.submit(TEXT)
        await _stored(shop, job.id, 5)
        async with server(shop, journals, engine=second, options=QueueOptions(max_attempts=1)) as other:
            shop.change(job.id, lease_until=lease_until)
            assert said(await other.read(job.id)) == TEXT
            assert [len(choice) for request in engine.asked + second.asked for choice in request.begun] == [5]
            await until(lambda: not one.queue.running)
    assert engine.cancelled == 1
    assert charges(shop) == WHOLE
    shop.assert_settled()


async def test_a_job_that_kills_its_processes_is_given_up(shop: Shop, journals: Path) -> None:
    engine = BreakingEcho(*[Break(0)] * 3)
    async with server(shop, journals, engine=engine) as one:
        job = await one.submit(TEXT)
        for _ in range(3):
            await engine.stuck.wait()
            engine.stuck.clear()
            shop.change(job.id, lease_until=0)
        with pytest.raises(EngineFailed, match="died 3 times"):
            await one.read(job.id)
    assert charges(shop) == [("failed", 0)]
    shop.assert_settled()


async def test_a_server_that_ends_gives_its_jobs_back_at_once(shop: Shop, journals: Path) -> None:
    engine = BreakingEcho(Break(5))
    async with server(shop, journals, engine=engine) as one:
        job = await one.submit(TEXT)
        await _stored(shop, job.id, 5)
        waiting = asyncio.create_task(one.read(job.id))
        await asyncio.sleep(0)
        one.gateway.drain()
        with pytest.raises(ShuttingDown):
            await waiting
        with pytest.raises(ShuttingDown):
            await one.submit(TEXT)
    assert (shop.row(job.id).state, shop.row(job.id).attempts) == ("queued", 0)
    async with server(shop, journals, engine=BreakingEcho()) as other:
        assert said(await other.read(job.id)) == TEXT
    assert charges(shop) == WHOLE
    shop.assert_settled()


async def test_a_held_job_that_waits_for_too_long_fails(shop: Shop, journals: Path) -> None:
    options = QueueOptions(concurrency=0, held_seconds=0.1)
    async with server(shop, journals, options=options) as one:
        patient = await one.submit(TEXT)
        held = await one.submit(TEXT, held=True)
        with pytest.raises(JobTimedOut):
            await one.read(held.id)
        assert (await one.job(held.id)).state == "failed"
        assert (await one.job(patient.id)).state == "queued"
        await one.cancel(patient.id)
    shop.assert_settled()


async def test_candidates_of_which_the_best_is_told_pay_for_all_even_when_they_are_cancelled(
    shop: Shop, journals: Path
) -> None:
    async with server(shop, journals) as one:
        job = await one.submit(TEXT, best_of=3)
        assert said(await one.read(job.id)) == TEXT
    assert charges(shop) == [("finished", cost(len(TEXT), 3 * (len(TEXT) + END)))]


async def _stored(shop: Shop, job_id: str, tokens: int) -> None:
    """Wait until so many tokens are stored."""
    await until(lambda: bool(shop.row(job_id).completion_tokens >= tokens))
