"""Messages of real jobs, from the end of the job to the receiver."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from sqlalchemy import text

from dragoman.accounts.database.connections import Database
from dragoman.core.egress.urls import UrlRules
from dragoman.jobs.webhooks.dispatcher import WebhookDispatcher
from dragoman.jobs.webhooks.message import DeliveryResult, parse_secret
from dragoman.jobs.webhooks.options import DELIVERY_LEASE_SECONDS, DeliveryLimits, RetrySchedule, WebhookOptions
from dragoman.jobs.webhooks.sender import WebhookSender
from dragoman.jobs.webhooks.store import WebhookStore
from tests.support.database_faults import locked_file
from tests.support.jobs.queue_harness import ACCEPT_ONLY, QueueHarness, QueueServer, queue_server
from tests.support.jobs.webhook_receivers import SECRET, WebhookReceiver, running_receiver
from tests.support.manual_loop import on_paced_loop, pace
from tests.support.sqlite_files import create_sqlite_database
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

QUICK = RetrySchedule(max_attempts=3, first_seconds=0.01, factor=1)
OPTIONS = WebhookOptions(
    secret=parse_secret(SECRET), rules=UrlRules(allow_http=True, allow_private=True), schedule=QUICK, poll_seconds=0.02
)
NEVER_POLL = msgspec.structs.replace(OPTIONS, poll_seconds=3600)
"""Servers with these options accept webhooks but leave sending them to the test."""


class DispatcherHarness:
    """Collects the results of a running dispatcher's attempts."""

    def __init__(self) -> None:
        self.results: list[DeliveryResult] = []
        self._more_results = asyncio.Event()

    def add_result(self, result: DeliveryResult) -> None:
        self.results.append(result)
        self._more_results.set()

    async def wait_for(self, count: int) -> list[DeliveryResult]:
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while len(self.results) < count:
                self._more_results.clear()
                await self._more_results.wait()
        return self.results


@contextlib.asynccontextmanager
async def running_dispatcher(
    harness: QueueHarness, options: WebhookOptions = OPTIONS, *, beside: DispatcherHarness | None = None
) -> AsyncIterator[DispatcherHarness]:
    """Run a dispatcher with connections of its own, as in another process."""
    database = Database(harness.url)
    results = beside or DispatcherHarness()
    assert options.secret is not None
    assert options.secret is not None
    task = asyncio.create_task(
        WebhookDispatcher(database, WebhookSender(options.secret, options.rules), options, results.add_result).run()
    )
    try:
        yield results
    finally:
        task.cancel()
        await asyncio.wait([task])
        database.close()


async def submit(server: QueueServer, url: str, prompt: str = "Hello") -> str:
    return (await server.submit(prompt, webhook=url)).id


async def test_a_message_has_the_answers_url_below_the_root_path(harness: QueueHarness, journals: Path) -> None:
    options = msgspec.structs.replace(OPTIONS, root_path="/llm")
    async with (
        running_receiver(WebhookReceiver()) as receiver,
        running_dispatcher(harness, options),
        queue_server(harness, journals, webhooks=NEVER_POLL) as server,
    ):
        job_id = await submit(server, receiver.url(), "Hi")
        [received] = await receiver.wait_for(1)
    assert received.content["data"]["url"] == f"/llm/queue/response/{job_id}"


@on_paced_loop
async def test_a_claim_that_is_answered_late_is_not_lost(tmp_path: Path, journals: Path) -> None:
    url = create_sqlite_database(tmp_path / "accounts.db")
    with contextlib.closing(Database(url)) as database:
        harness = QueueHarness(database)
        async with running_receiver(WebhookReceiver()) as receiver:
            async with queue_server(harness, journals, webhooks=NEVER_POLL, options=ACCEPT_ONLY) as server:
                job_id = await submit(server, receiver.url())
                await server.cancel(job_id)
            lock = contextlib.ExitStack()
            lock.enter_context(locked_file(harness.url))
            async with running_dispatcher(harness) as dispatcher:
                pace(4)
                await asyncio.sleep(8)  # For less time than SQLite waits, and more than callers do.
                pace(1)
                lock.close()
                async with asyncio.timeout(DELIVERY_LEASE_SECONDS):
                    assert await dispatcher.wait_for(1) == ["delivered"]
        assert harness.job_row(job_id).webhook_attempts == 1


async def test_every_kind_of_ending_is_delivered(harness: QueueHarness, journals: Path) -> None:
    async with running_receiver(WebhookReceiver()) as receiver, running_dispatcher(harness) as dispatcher:
        async with queue_server(harness, journals, webhooks=NEVER_POLL) as server:
            finished = await submit(server, receiver.url(), "Hi")
            [first] = await receiver.wait_for(1)
        async with queue_server(harness, journals, webhooks=NEVER_POLL, options=ACCEPT_ONLY) as server:
            cancelled = await submit(server, receiver.url())
            assert harness.job_row(cancelled).webhook_state is None
            await server.cancel(cancelled)
            expired = await submit(server, receiver.url())
        harness.update_job(expired, expires_at=1)
        async with queue_server(harness, journals, options=ACCEPT_ONLY):
            assert await dispatcher.wait_for(3) == ["delivered"] * 3
    bodies = {each.content["data"]["id"]: each.content for each in receiver.received}
    assert {job_id: body["type"] for job_id, body in bodies.items()} == {
        finished: "job.finished",
        cancelled: "job.cancelled",
        expired: "job.failed",
    }
    assert bodies[finished]["data"]["url"] == f"/queue/response/{finished}"
    assert b"Hi" not in first.body
    for each in receiver.received:
        each.assert_signed()
    for job_id in bodies:
        row = harness.job_row(job_id)
        assert (row.webhook_state, row.webhook_attempts, row.webhook_at) == ("delivered", 1, None)


async def test_another_server_retries_a_message_under_the_same_id(harness: QueueHarness, journals: Path) -> None:
    async with running_receiver(WebhookReceiver(503, 503, 200)) as receiver:
        async with queue_server(harness, journals, webhooks=NEVER_POLL) as server:
            job_id = await submit(server, receiver.url())
            async with running_dispatcher(harness) as before:
                await before.wait_for(1)
        async with running_dispatcher(harness) as after:
            results = [*before.results, *await after.wait_for(3 - len(before.results))]
    assert results == ["failed", "failed", "delivered"]
    row = harness.job_row(job_id)
    assert (row.webhook_state, row.webhook_attempts, row.webhook_at) == ("delivered", 3, None)
    assert len({(each.id, each.body) for each in receiver.received}) == 1
    for each in receiver.received:
        each.assert_signed()


async def test_a_message_fails_after_the_last_attempt(harness: QueueHarness, journals: Path) -> None:
    async with (
        running_receiver(WebhookReceiver(500)) as receiver,
        queue_server(harness, journals, webhooks=NEVER_POLL) as server,
        running_dispatcher(harness) as dispatcher,
    ):
        job_id = await submit(server, receiver.url())
        assert await dispatcher.wait_for(3) == ["failed"] * 3
    row = harness.job_row(job_id)
    assert (row.webhook_state, row.webhook_attempts, row.webhook_at) == ("failed", 3, None)


async def test_a_receiver_that_is_gone_gets_no_retry(harness: QueueHarness, journals: Path) -> None:
    async with (
        running_receiver(WebhookReceiver(410)) as receiver,
        queue_server(harness, journals, webhooks=NEVER_POLL) as server,
        running_dispatcher(harness) as dispatcher,
    ):
        job_id = await submit(server, receiver.url())
        assert await dispatcher.wait_for(1) == ["gone"]
    row = harness.job_row(job_id)
    assert (row.webhook_state, row.webhook_attempts, row.webhook_at) == ("gone", 1, None)


async def test_an_address_that_is_no_longer_allowed_gets_no_message(harness: QueueHarness, journals: Path) -> None:
    async with (
        running_receiver(WebhookReceiver()) as receiver,
        queue_server(harness, journals, webhooks=NEVER_POLL) as server,
    ):
        job_id = await submit(server, receiver.url())
        async with running_dispatcher(harness, msgspec.structs.replace(OPTIONS, rules=UrlRules())) as dispatcher:
            assert await dispatcher.wait_for(1) == ["refused"]
    assert (harness.job_row(job_id).webhook_state, receiver.received) == ("refused", [])


async def test_two_servers_deliver_each_message_once(harness: QueueHarness, journals: Path) -> None:
    async with (
        running_receiver(WebhookReceiver()) as receiver,
        queue_server(harness, journals, webhooks=NEVER_POLL) as server,
    ):
        async with running_dispatcher(harness) as dispatcher, running_dispatcher(harness, beside=dispatcher):
            jobs = [await submit(server, receiver.url()) for _ in range(20)]
            assert await dispatcher.wait_for(20) == ["delivered"] * 20
        assert {harness.job_row(job_id).webhook_state for job_id in jobs} == {"delivered"}
    assert sorted(each.content["data"]["id"] for each in receiver.received) == sorted(jobs)


async def test_a_slow_receiver_does_not_delay_others(harness: QueueHarness, journals: Path) -> None:
    per_host = OPTIONS.limits.per_host
    async with (
        running_receiver(WebhookReceiver()) as slow,
        running_receiver(WebhookReceiver()) as quick,
        queue_server(harness, journals, webhooks=NEVER_POLL) as server,
    ):
        slow.may_respond.clear()
        for job_id in [await submit(server, slow.url("localhost")) for _ in range(60)]:
            await server.read(job_id)
        async with running_dispatcher(harness) as dispatcher:
            await slow.wait_for(per_host)
            await submit(server, quick.url())
            assert await dispatcher.wait_for(1) == ["delivered"]
            assert len(slow.received) == per_host
            slow.may_respond.set()
            await slow.wait_for(2 * per_host)


async def test_an_owner_has_a_limited_number_of_deliveries_in_flight(harness: QueueHarness, journals: Path) -> None:
    _, other_key = harness.new_account("globex")
    async with queue_server(harness, journals, webhooks=NEVER_POLL) as server:
        for number in range(30):
            await server.read(await submit(server, f"https://receiver-{number}.test/"))
        of_other = await server.submit("Hello", webhook="https://receiver-0.test/", key=other_key)
        await server.read(of_other.id, key=other_key)
    claimed = WebhookStore(harness.database, QUICK, DeliveryLimits()).claim(64, ())
    assert sorted(Counter(each.owner for each in claimed).values()) == [1, DeliveryLimits().per_owner]


async def test_an_attempt_aborted_by_shutdown_does_not_count(harness: QueueHarness, journals: Path) -> None:
    async with (
        running_receiver(WebhookReceiver()) as receiver,
        queue_server(harness, journals, webhooks=NEVER_POLL) as server,
    ):
        receiver.may_respond.clear()
        async with running_dispatcher(harness):
            job_id = await submit(server, receiver.url())
            await receiver.wait_for(1)
            assert harness.job_row(job_id).webhook_attempts == 1
        row = harness.job_row(job_id)
        assert (row.webhook_state, row.webhook_attempts) == ("due", 0)
        receiver.may_respond.set()
        async with running_dispatcher(harness) as dispatcher:
            assert await dispatcher.wait_for(1) == ["delivered"]
    assert [each.id for each in receiver.received] == [receiver.received[0].id] * 2


async def test_an_attempt_of_a_dead_process_is_repeated_after_its_lease(harness: QueueHarness, journals: Path) -> None:
    store = WebhookStore(harness.database, QUICK, DeliveryLimits())
    async with (
        running_receiver(WebhookReceiver()) as receiver,
        queue_server(harness, journals, webhooks=NEVER_POLL) as server,
    ):
        job_id = await submit(server, receiver.url())
        await server.read(job_id)
        [lost] = store.claim(64, ())
        assert store.claim(64, ()) == []
        assert not store.has_due()
        harness.update_job(job_id, webhook_at=harness.job_row(job_id).webhook_at - DELIVERY_LEASE_SECONDS * 1000)
        [again] = store.claim(64, ())
        assert (lost.attempt, again.attempt, lost.message) == (1, 2, again.message)
        store.store_result(lost, "gone")  # The process was not dead, only late.
        assert harness.job_row(job_id).webhook_state == "due"
        store.store_result(again, "delivered")
        store.release(again)
        assert harness.job_row(job_id).webhook_state == "delivered"


async def test_a_clock_that_was_set_back_strands_no_message(harness: QueueHarness, journals: Path) -> None:
    store = WebhookStore(harness.database, RetrySchedule(), DeliveryLimits())
    async with queue_server(harness, journals, webhooks=NEVER_POLL) as server:
        job_id = await submit(server, "https://receiver.test/")
        await server.read(job_id)
        harness.update_job(job_id, webhook_at=harness.job_row(job_id).ended_at + 86_400_000)
        assert store.has_due()
        assert [each.host for each in store.claim(64, ())] == ["receiver.test"]


async def test_due_messages_are_found_by_their_index(harness: QueueHarness) -> None:
    query = "SELECT number FROM jobs WHERE webhook_at <= 1 ORDER BY webhook_at LIMIT 50"
    with harness.database.read() as connection:
        if not harness.database.is_sqlite:
            connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = str(
            connection.execute(text(f"EXPLAIN {'QUERY PLAN ' if harness.database.is_sqlite else ''}{query}")).all()
        )
    assert "jobs_webhook" in plan
