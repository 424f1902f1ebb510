"""A server in this process that keeps jobs, and what its clients need to know."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from dragoman.accounts.administration.accounts import create_account, deposit
from dragoman.accounts.administration.keys import create_key
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import jobs
from dragoman.accounts.identifiers import new_process_id
from dragoman.engines.base import Engine
from dragoman.jobs.service.queue import JobQueue
from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.webhooks.options import NO_WEBHOOKS, WebhookOptions
from dragoman.server.app import App
from dragoman.server.settings import DialectName
from tests.support.accounting import accounting_at
from tests.support.apps import client_of, echo_app, running_app
from tests.support.metered import AMPLE_BALANCE, AccountFixture, sqlite_account
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

RESPOND_ASYNC = {"prefer": "respond-async"}
ACCEPT_STREAM = {"accept": "text/event-stream"}


class HttpQueueHarness:
    """A database with two accounts, where servers keep their jobs."""

    def __init__(self, account_fixture: AccountFixture, folder: Path) -> None:
        self._folder = folder
        self.customer = account_fixture
        self.secret = account_fixture.new_key()
        other = create_account(account_fixture.database, "other").id
        deposit(account_fixture.database, other, AMPLE_BALANCE)
        self.other_secret = create_key(account_fixture.database, other).secret

    @contextlib.asynccontextmanager
    async def server(
        self,
        engine: Engine | None = None,
        *,
        options: QueueOptions | None = None,
        keep_alive_seconds: float = 15,
        hosts: dict[str, DialectName] | None = None,
        webhooks: WebhookOptions = NO_WEBHOOKS,
    ) -> AsyncIterator["HttpQueueServer"]:
        """One over a deployment called `echo`, from its start to its end."""
        database = Database(self.customer.url)
        queue = JobQueue(database, options or QueueOptions(), new_process_id(), webhooks)
        with contextlib.closing(database), accounting_at(self.customer.url, self._folder) as books:
            app = echo_app(
                engine=engine, accounting=books, queue=queue, hosts=hosts, keep_alive_seconds=keep_alive_seconds
            )
            async with running_app(app), client_of(app, key=self.secret) as client:
                yield HttpQueueServer(app, client)

    def job_ids(self) -> list[str]:
        """Of all jobs there are."""
        with self.customer.database.read() as connection:
            return list(connection.execute(select(jobs.c.id).order_by(jobs.c.number)).scalars())


class HttpQueueServer:
    """An app, and a client of it."""

    def __init__(self, app: App, client: httpx.AsyncClient) -> None:
        self.app = app
        self.client = client


@contextlib.contextmanager
def open_queue_harness() -> Iterator[HttpQueueHarness]:
    """A new one, gone at the end."""
    with tempfile.TemporaryDirectory() as name, sqlite_account(Path(name)) as account_fixture:
        yield HttpQueueHarness(account_fixture, Path(name) / "journals")


@contextlib.asynccontextmanager
async def queue_client(engine: Engine | None = None, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that has a place for itself."""
    with open_queue_harness() as queue_harness:
        async with queue_harness.server(engine, **options) as server:
            yield server.client


async def job_when_ended(client: httpx.AsyncClient, url: str) -> Any:
    """What is told of a job when it has ended."""
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await client.get(url, headers=ACCEPT_STREAM)
    return (await client.get(url)).json()


def without_event_ids(text: str) -> str:
    """A stream without its ids, which must count from one."""
    lines = text.split("\n")
    ids = [line for line in lines if line.startswith("id: ")]
    assert ids == [f"id: {number + 1}" for number in range(len(ids))]
    return "\n".join(line for line in lines if not line.startswith("id: "))
