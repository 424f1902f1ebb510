"""Failed and cancelled jobs that run once more."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dragoman.accounts.administration.keys import KeyRules, disable_key
from dragoman.accounts.identifiers import QUEUE_PROCESS_ID
from dragoman.core.adapters import Adapter, AdapterSource
from dragoman.core.errors import BalanceTooLow, JobNotFound, KeyDisabled
from dragoman.jobs.storage.store import JobStore
from dragoman.jobs.storage.transactions.retry import NotRetryable
from dragoman.jobs.values.options import QueueOptions
from tests.support.echo_engines import AdaptableEcho
from tests.support.jobs.queue_harness import ACCEPT_ONLY, QueueHarness, queue_server, text_of
from tests.support.ledger_harness import COMPLETION_PRICE, PROMPT_PRICE
from tests.support.metered import AMPLE_BALANCE, cost


@pytest.fixture
def store(harness: QueueHarness) -> Iterator[JobStore]:
    store = JobStore(harness.database, QueueOptions(), QUEUE_PROCESS_ID)
    yield store
    store.close()


async def test_a_cancelled_job_runs_again_and_each_time_is_paid_for(
    harness: QueueHarness, store: JobStore, tmp_path: Path
) -> None:
    async with queue_server(harness, tmp_path, options=ACCEPT_ONLY) as server:
        job = await server.submit("Hello")
        await server.cancel(job.id)
    before = harness.job_row(job.id)
    store.retry(job.id, hold_cap=None)
    row = harness.job_row(job.id)
    assert (row.state, row.ended_at, row.number) == ("queued", None, before.number)
    assert row.request_id != before.request_id
    assert harness.account.holds > 0
    async with queue_server(harness, tmp_path) as server:
        assert text_of(await server.read(job.id)) == "Hello"
    assert {(each.request_id, each.result, each.charge) for each in harness.usage} == {
        (before.request_id, "disconnected", 0),
        (row.request_id, "finished", cost(5, 6)),
    }
    harness.assert_settled()


async def test_retrying_deletes_the_stored_answer(harness: QueueHarness, store: JobStore, tmp_path: Path) -> None:
    async with queue_server(harness, tmp_path) as server:
        job = await server.submit("Hello", webhook=None)
        await server.read(job.id)
    whole = harness.job_row(job.id)
    harness.update_job(job.id, state="failed", attempts=3, webhook_state="delivered", webhook_attempts=2)
    store.retry(job.id, hold_cap=1)
    row = harness.job_row(job.id)
    assert harness.count_event_rows(job.id) == 0
    assert (row.events, row.completion_tokens, row.delivered, row.attempts, row.error) == (0, 0, 0, 0, None)
    assert 0 < row.bytes < whole.bytes
    assert (row.webhook_state, row.webhook_attempts, row.webhook_at) == (None, 0, None)
    assert harness.account.holds == 5 * PROMPT_PRICE + COMPLETION_PRICE
    async with queue_server(harness, tmp_path) as server:
        assert text_of(await server.read(job.id)) == "Hello"
    harness.assert_settled()


@pytest.mark.parametrize("state", ["queued", "finished"])
async def test_only_failed_and_cancelled_jobs_can_be_retried(
    harness: QueueHarness, store: JobStore, tmp_path: Path, state: str
) -> None:
    options = ACCEPT_ONLY if state == "queued" else QueueOptions()
    async with queue_server(harness, tmp_path, options=options) as server:
        job = await server.submit("Hello")
        if state == "finished":
            await server.read(job.id)
        before = harness.job_row(job.id)
        with pytest.raises(NotRetryable, match=f"{job.id} is {state}; only failed and cancelled ones"):
            store.retry(job.id, hold_cap=None)
        assert harness.job_row(job.id) == before
    with pytest.raises(JobNotFound):
        store.retry("job_0", hold_cap=None)


async def test_a_retry_needs_a_valid_key_and_enough_balance(
    harness: QueueHarness, store: JobStore, tmp_path: Path
) -> None:
    _, key = harness.new_account("poor", KeyRules(requests_per_minute=100), balance=AMPLE_BALANCE)
    async with queue_server(harness, tmp_path, options=ACCEPT_ONLY) as server:
        job = await server.submit("Hello", key=key)
        await server.cancel(job.id, key=key)
    before = harness.job_row(job.id)
    harness.update_job(job.id, most_completion_tokens=10**12)
    with pytest.raises(BalanceTooLow):
        store.retry(job.id, hold_cap=None)
    harness.update_job(job.id, most_completion_tokens=before.most_completion_tokens)
    disable_key(harness.database, harness.keys[-1].id)
    with pytest.raises(KeyDisabled):
        store.retry(job.id, hold_cap=None)
    assert harness.job_row(job.id) == before


async def test_a_job_of_an_adapter_without_a_price_pays_for_its_model_again(
    harness: QueueHarness, store: JobStore, tmp_path: Path
) -> None:
    engine = AdaptableEcho()
    engine.adapter_host.by_name["poet"] = Adapter(name="poet", source=AdapterSource("local", "poet"), created_at=17)
    async with queue_server(harness, tmp_path, engine=engine, options=ACCEPT_ONLY) as server:
        job = await server.submit("Hello", model="poet")
        hold = harness.account.holds
        await server.cancel(job.id)
    store.retry(job.id, hold_cap=None)
    assert harness.account.holds == hold > 0
