"""Messages of real jobs, from the end of the job to the receiver, on either database."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from dragoman.accounts.database import Database
from dragoman.core.errors import BadRequest
from dragoman.jobs.options import QueueOptions
from dragoman.jobs.webhooks.dispatcher import Dispatcher
from dragoman.jobs.webhooks.message import Result, parse_secret
from dragoman.jobs.webhooks.options import Share, WebhookOptions, check_webhook
from dragoman.jobs.webhooks.schedule import LEASE_SECONDS, Schedule
from dragoman.jobs.webhooks.sender import Sender
from dragoman.jobs.webhooks.store import WebhookStore
from dragoman.jobs.webhooks.urls import Rules
from tests.support.patience import PATIENCE_SECONDS
from tests.support.queues import Server, Shop, server
from tests.support.receivers import SECRET, Receiver, receiving

QUICK = Schedule(attempts=3, first_seconds=0.01, factor=1)
OPTIONS = WebhookOptions(parse_secret(SECRET), Rules(allow_http=True, allow_private=True), QUICK, poll_seconds=0.02)
ACCEPTED = OPTIONS._replace(poll_seconds=3600)
"""Servers with these take webhooks, and leave it to the test to send them."""

TAKES_IN = QueueOptions(concurrency=0)


class Post:
    """A running dispatcher, and how its tries ended."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self._more = asyncio.Event()

    def sent(self, result: Result) -> None:
        self.results.append(result)
        self._more.set()

    async def until(self, count: int) -> list[Result]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.results) < count:
                self._more.clear()
                await self._more.wait()
        return self.results


@contextlib.asynccontextmanager
async def post(shop: Shop, options: WebhookOptions = OPTIONS, *, beside: Post | None = None) -> AsyncIterator[Post]:
    """With connections of its own, as another process has them."""
    database = Database(shop.url)
    made = beside or Post()
    assert options.secret is not None
    task = asyncio.create_task(Dispatcher(database, Sender(options.secret, options.rules), options, made.sent).run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])
        database.close()


@pytest.fixture
def journals(tmp_path: Path) -> Path:
    return tmp_path / "journals"


async def submit(one: Server, url: str, said: str = "Hello") -> str:
    return (await one.submit(said, webhook=url)).id


async def test_the_end_of_every_job_is_told_in_its_way(shop: Shop, journals: Path) -> None:
    async with receiving(Receiver()) as receiver, post(shop) as sending:
        async with server(shop, journals, webhooks=ACCEPTED) as one:
            finished = await submit(one, receiver.url(), "Hi")
            [first] = await receiver.until(1)
        async with server(shop, journals, webhooks=ACCEPTED, options=TAKES_IN) as one:
            cancelled = await submit(one, receiver.url())
            assert shop.row(cancelled).webhook_state is None
            await one.cancel(cancelled)
            expired = await submit(one, receiver.url())
        shop.change(expired, expires_at=1)
        async with server(shop, journals, options=TAKES_IN):
            assert await sending.until(3) == ["delivered"] * 3
    told = {each.content["data"]["id"]: each.content for each in receiver.received}
    assert {job_id: body["type"] for job_id, body in told.items()} == {
        finished: "job.finished",
        cancelled: "job.cancelled",
        expired: "job.failed",
    }
    assert told[finished]["data"]["url"] == f"/queue/response/{finished}"
    assert b"Hi" not in first.body
    for each in receiver.received:
        each.assert_signed()
    for job_id in told:
        row = shop.row(job_id)
        assert (row.webhook_state, row.webhook_attempts, row.webhook_at) == ("delivered", 1, None)


async def test_a_message_is_tried_again_by_the_next_server_under_the_same_id(shop: Shop, journals: Path) -> None:
    async with receiving(Receiver(503, 503, 200)) as receiver:
        async with server(shop, journals, webhooks=ACCEPTED) as one:
            job_id = await submit(one, receiver.url())
            async with post(shop) as before:
                await before.until(1)
        async with post(shop) as after:
            results = [*before.results, *await after.until(3 - len(before.results))]
    assert results == ["failed", "failed", "delivered"]
    row = shop.row(job_id)
    assert (row.webhook_state, row.webhook_attempts, row.webhook_at) == ("delivered", 3, None)
    assert len({(each.id, each.body) for each in receiver.received}) == 1
    for each in receiver.received:
        each.assert_signed()


async def test_a_message_is_given_up_after_the_last_try(shop: Shop, journals: Path) -> None:
    async with (
        receiving(Receiver(500)) as receiver,
        server(shop, journals, webhooks=ACCEPTED) as one,
        post(shop) as sending,
    ):
        job_id = await submit(one, receiver.url())
        assert await sending.until(3) == ["failed"] * 3
    row = shop.row(job_id)
    assert (row.webhook_state, row.webhook_attempts, row.webhook_at) == ("failed", 3, None)


async def test_a_receiver_that_is_gone_is_not_told_again(shop: Shop, journals: Path) -> None:
    async with (
        receiving(Receiver(410)) as receiver,
        server(shop, journals, webhooks=ACCEPTED) as one,
        post(shop) as sending,
    ):
        job_id = await submit(one, receiver.url())
        assert await sending.until(1) == ["gone"]
    row = shop.row(job_id)
    assert (row.webhook_state, row.webhook_attempts, row.webhook_at) == ("gone", 1, None)


async def test_an_address_that_is_not_allowed_any_more_is_not_told(shop: Shop, journals: Path) -> None:
    async with receiving(Receiver()) as receiver, server(shop, journals, webhooks=ACCEPTED) as one:
        job_id = await submit(one, receiver.url())
        async with post(shop, OPTIONS._replace(rules=Rules())) as sending:
            assert await sending.until(1) == ["refused"]
    assert (shop.row(job_id).webhook_state, receiver.received) == ("refused", [])


async def test_two_servers_tell_of_each_job_once(shop: Shop, journals: Path) -> None:
    async with receiving(Receiver()) as receiver, server(shop, journals, webhooks=ACCEPTED) as one:
        async with post(shop) as sending, post(shop, beside=sending):
            jobs = [await submit(one, receiver.url()) for _ in range(20)]
            assert await sending.until(20) == ["delivered"] * 20
        assert {shop.row(job_id).webhook_state for job_id in jobs} == {"delivered"}
    assert sorted(each.content["data"]["id"] for each in receiver.received) == sorted(jobs)


async def test_nobody_waits_for_a_slow_receiver_of_somebody_else(shop: Shop, journals: Path) -> None:
    a_host = OPTIONS.share.a_host
    async with (
        receiving(Receiver()) as slow,
        receiving(Receiver()) as quick,
        server(shop, journals, webhooks=ACCEPTED) as one,
    ):
        slow.answers.clear()
        for job_id in [await submit(one, slow.url("localhost")) for _ in range(60)]:
            await one.read(job_id)
        async with post(shop) as sending:
            await slow.until(a_host)
            await submit(one, quick.url())
            assert await sending.until(1) == ["delivered"]
            assert len(slow.received) == a_host
            slow.answers.set()
            await slow.until(2 * a_host)


async def test_one_owner_has_only_a_part_of_what_is_sent_at_once(shop: Shop, journals: Path) -> None:
    _, stranger = shop.new_account("globex")
    async with server(shop, journals, webhooks=ACCEPTED) as one:
        for number in range(30):
            await one.read(await submit(one, f"https://receiver-{number}.test/"))
        theirs = await one.submit("Hello", webhook="https://receiver-0.test/", key=stranger)
        await one.read(theirs.id, key=stranger)
    claimed = WebhookStore(shop.database, QUICK, Share()).claim(64, ())
    assert sorted(Counter(each.owner for each in claimed).values()) == [1, Share().an_owner]


async def test_a_try_that_the_servers_end_breaks_off_does_not_count(shop: Shop, journals: Path) -> None:
    async with receiving(Receiver()) as receiver, server(shop, journals, webhooks=ACCEPTED) as one:
        receiver.answers.clear()
        async with post(shop):
            job_id = await submit(one, receiver.url())
            await receiver.until(1)
            assert shop.row(job_id).webhook_attempts == 1
        row = shop.row(job_id)
        assert (row.webhook_state, row.webhook_attempts) == ("due", 0)
        receiver.answers.set()
        async with post(shop) as sending:
            assert await sending.until(1) == ["delivered"]
    assert [each.id for each in receiver.received] == [receiver.received[0].id] * 2


async def test_a_try_whose_process_died_is_made_again_when_its_lease_is_out(shop: Shop, journals: Path) -> None:
    store = WebhookStore(shop.database, QUICK, Share())
    async with receiving(Receiver()) as receiver, server(shop, journals, webhooks=ACCEPTED) as one:
        job_id = await submit(one, receiver.url())
        await one.read(job_id)
        [lost] = store.claim(64, ())
        assert store.claim(64, ()) == []
        assert not store.any_due()
        shop.change(job_id, webhook_at=shop.row(job_id).webhook_at - LEASE_SECONDS * 1000)
        [again] = store.claim(64, ())
        assert (lost.attempt, again.attempt, lost.message) == (1, 2, again.message)
        store.end(lost, "gone")  # It was not dead, only late.
        assert shop.row(job_id).webhook_state == "due"
        store.end(again, "delivered")
        store.give_back(again)
        assert shop.row(job_id).webhook_state == "delivered"


async def test_a_clock_that_was_set_back_strands_no_message(shop: Shop, journals: Path) -> None:
    store = WebhookStore(shop.database, Schedule(), Share())
    async with server(shop, journals, webhooks=ACCEPTED) as one:
        job_id = await submit(one, "https://receiver.test/")
        await one.read(job_id)
        shop.change(job_id, webhook_at=shop.row(job_id).ended_at + 86_400_000)
        assert store.any_due()
        assert [each.host for each in store.claim(64, ())] == ["receiver.test"]


def test_what_would_never_be_told_anything_is_refused_at_once() -> None:
    check_webhook("https://receiver.test/", OPTIONS)
    with pytest.raises(BadRequest, match=r"set queue\.webhook_secret"):
        check_webhook("https://receiver.test/", WebhookOptions())
    with pytest.raises(BadRequest, match=r"queue\.webhook_allow_http"):
        check_webhook("http://receiver.test/", WebhookOptions(OPTIONS.secret))


async def test_messages_are_looked_for_in_their_index(shop: Shop) -> None:
    query = "SELECT number FROM jobs WHERE webhook_at <= 1 ORDER BY webhook_at LIMIT 50"
    with shop.database.read() as connection:
        if not shop.database.is_sqlite:
            connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = str(connection.execute(text(f"EXPLAIN {'QUERY PLAN ' if shop.database.is_sqlite else ''}{query}")).all())
    assert "jobs_webhook" in plan
