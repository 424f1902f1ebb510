"""Jobs that have failed or were cancelled, run once more."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dragoman.accounts.identifiers import QUEUE_PROCESS
from dragoman.accounts.keys import KeyRules, disable_key
from dragoman.accounts.refusals import BalanceTooLow, KeyDisabled
from dragoman.core.errors import JobNotFound
from dragoman.jobs.options import QueueOptions
from dragoman.jobs.retrying import NotRetried
from dragoman.jobs.store import JobStore
from tests.support.metered import COMPLETION_PRICE, PLENTY, PROMPT_PRICE, cost
from tests.support.queues import Shop, said, server

TAKES_IN = QueueOptions(concurrency=0)


@pytest.fixture
def store(shop: Shop) -> Iterator[JobStore]:
    store = JobStore(shop.database, QueueOptions(), QUEUE_PROCESS)
    yield store
    store.close()


async def test_a_cancelled_job_runs_again_and_each_time_is_paid_for(
    shop: Shop, store: JobStore, tmp_path: Path
) -> None:
    async with server(shop, tmp_path, options=TAKES_IN) as one:
        job = await one.submit("Hello")
        await one.cancel(job.id)
    before = shop.row(job.id)
    store.retry(job.id, hold_cap=None)
    row = shop.row(job.id)
    assert (row.state, row.ended_at, row.number) == ("queued", None, before.number)
    assert row.request_id != before.request_id
    assert shop.account.holds > 0
    async with server(shop, tmp_path) as one:
        assert said(await one.read(job.id)) == "Hello"
    assert {(each.request_id, each.result, each.charge) for each in shop.usage} == {
        (before.request_id, "disconnected", 0),
        (row.request_id, "finished", cost(5, 6)),
    }
    shop.assert_settled()


async def test_what_was_stored_of_the_answer_is_gone(shop: Shop, store: JobStore, tmp_path: Path) -> None:
    async with server(shop, tmp_path) as one:
        job = await one.submit("Hello", webhook=None)
        await one.read(job.id)
    whole = shop.row(job.id)
    shop.change(job.id, state="failed", attempts=3, webhook_state="delivered", webhook_attempts=2)
    store.retry(job.id, hold_cap=1)
    row = shop.row(job.id)
    assert shop.stored_events(job.id) == 0
    assert (row.events, row.completion_tokens, row.delivered, row.attempts, row.error) == (0, 0, 0, 0, None)
    assert 0 < row.bytes < whole.bytes
    assert (row.webhook_state, row.webhook_attempts, row.webhook_at) == (None, 0, None)
    assert shop.account.holds == 5 * PROMPT_PRICE + COMPLETION_PRICE
    async with server(shop, tmp_path) as one:
        assert said(await one.read(job.id)) == "Hello"
    shop.assert_settled()


@pytest.mark.parametrize("state", ["queued", "finished"])
async def test_no_other_job_does(shop: Shop, store: JobStore, tmp_path: Path, state: str) -> None:
    options = TAKES_IN if state == "queued" else QueueOptions()
    async with server(shop, tmp_path, options=options) as one:
        job = await one.submit("Hello")
        if state == "finished":
            await one.read(job.id)
        before = shop.row(job.id)
        with pytest.raises(NotRetried, match=f"{job.id} is {state}; only failed and cancelled ones"):
            store.retry(job.id, hold_cap=None)
        assert shop.row(job.id) == before
    with pytest.raises(JobNotFound):
        store.retry("job_0", hold_cap=None)


async def test_it_needs_a_key_that_is_good_and_money_as_at_first(shop: Shop, store: JobStore, tmp_path: Path) -> None:
    _, poor = shop.new_account("poor", KeyRules(requests_per_minute=100), balance=PLENTY)
    async with server(shop, tmp_path, options=TAKES_IN) as one:
        job = await one.submit("Hello", key=poor)
        await one.cancel(job.id, key=poor)
    before = shop.row(job.id)
    shop.change(job.id, most_completion_tokens=10**12)
    with pytest.raises(BalanceTooLow):
        store.retry(job.id, hold_cap=None)
    shop.change(job.id, most_completion_tokens=before.most_completion_tokens)
    disable_key(shop.database, shop.keys[-1].id)
    with pytest.raises(KeyDisabled):
        store.retry(job.id, hold_cap=None)
    assert shop.row(job.id) == before
