"""Jobs, their leases and webhooks go on by themselves after the database could not be used."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dragoman.accounts.database.connections import Database
from dragoman.core.egress.urls import UrlRules
from dragoman.core.errors import Overloaded
from dragoman.core.events import Event
from dragoman.jobs.webhooks.message import parse_secret
from dragoman.jobs.webhooks.options import WebhookOptions
from tests.support.database_faults import Fault, as_limited_role, deleted_files, missing_tables, read_only_server
from tests.support.echo_engines import GatedEcho
from tests.support.jobs.queue_harness import QueueHarness, QueueServer, queue_server, text_of
from tests.support.jobs.webhook_receivers import SECRET, WebhookReceiver, running_receiver
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

WEBHOOKS = WebhookOptions(
    secret=parse_secret(SECRET), rules=UrlRules(allow_http=True, allow_private=True), poll_seconds=0.02
)


@pytest.fixture
def harness(kind: str, database_url: str) -> Iterator[QueueHarness]:
    database = Database(database_url if kind == "sqlite" else as_limited_role(database_url))
    yield QueueHarness(database)
    database.close()


async def read_when_available(server: QueueServer, job_id: str) -> list[Event]:
    """Read a job's answer as soon as the database can be used again."""
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        while True:
            with contextlib.suppress(Overloaded):
                return await server.read(job_id)


@pytest.mark.parametrize(
    ("kind", "fault"), [("sqlite", deleted_files), ("sqlite", missing_tables), ("postgresql", read_only_server)]
)
async def test_a_job_that_ends_during_an_outage_is_stored_paid_and_reported_afterwards(
    harness: QueueHarness, journals: Path, fault: Fault
) -> None:
    engine = GatedEcho(is_open=False)
    async with (
        running_receiver(WebhookReceiver()) as receiver,
        queue_server(harness, journals, engine=engine, webhooks=WEBHOOKS) as server,
    ):
        running = await server.submit("Hello, world", webhook=receiver.url())
        await engine.generation_started.wait()
        with fault(harness.url):
            engine.gate.set()
            with pytest.raises(Overloaded):
                await server.job(running.id)
            with pytest.raises(Overloaded):
                await server.cancel(running.id)
        assert text_of(await read_when_available(server, running.id)) == "Hello, world"
        later = await server.submit("Hi", webhook=receiver.url())
        assert text_of(await server.read(later.id)) == "Hi"
        received = await receiver.wait_for(2)
    assert {each.content["data"]["id"] for each in received} == {running.id, later.id}
    assert [used.result for used in harness.usage] == ["finished", "finished"]
    harness.assert_settled()
