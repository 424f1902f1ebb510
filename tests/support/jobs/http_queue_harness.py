"""Apps in this process with a queue, and helpers for their HTTP clients."""

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
from dragoman.dialects.registry import DialectName
from dragoman.engines.base import Engine
from dragoman.gateway.execution.response_store import DatabaseResponseStore
from dragoman.gateway.remote_images import ImageFetcher
from dragoman.jobs.service.queue import JobQueue
from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.webhooks.options import NO_WEBHOOKS, WebhookOptions
from dragoman.server.app import App
from tests.support.accounting import accounting_at
from tests.support.apps import client_of, echo_app, running_app
from tests.support.metered import AMPLE_BALANCE, AccountFixture, sqlite_account
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

RESPOND_ASYNC = {"prefer": "respond-async"}
ACCEPT_STREAM = {"accept": "text/event-stream"}


class HttpQueueHarness:
    """A database with two accounts, shared by the apps that it starts."""

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
        adapter_dir: Path | None = None,
        root_path: str = "",
        images: ImageFetcher | None = None,
    ) -> AsyncIterator["HttpQueueServer"]:
        """Run an app with a deployment called `echo`."""
        database = Database(self.customer.url)
        queue = JobQueue(database, options or QueueOptions(), new_process_id(), webhooks)
        with contextlib.closing(database), accounting_at(self.customer.url, self._folder) as accounting:
            app = echo_app(
                engine=engine,
                accounting=accounting,
                queue=queue,
                hosts=hosts,
                keep_alive_seconds=keep_alive_seconds,
                adapter_dir=adapter_dir,
                root_path=root_path,
                response_store=DatabaseResponseStore(database),
                images=images,
            )
            async with running_app(app), client_of(app, key=self.secret) as client:
                yield HttpQueueServer(app, client)

    def job_ids(self) -> list[str]:
        """Return the ids of all jobs, oldest first."""
        with self.customer.database.read() as connection:
            return list(connection.execute(select(jobs.c.id).order_by(jobs.c.number)).scalars())


class HttpQueueServer:
    """An app with a client."""

    def __init__(self, app: App, client: httpx.AsyncClient) -> None:
        self.app = app
        self.client = client


@contextlib.contextmanager
def open_queue_harness() -> Iterator[HttpQueueHarness]:
    """Create a harness in a temporary folder."""
    with tempfile.TemporaryDirectory() as name, sqlite_account(Path(name)) as account_fixture:
        yield HttpQueueHarness(account_fixture, Path(name) / "journals")


@contextlib.asynccontextmanager
async def queue_client(engine: Engine | None = None, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Run an app in a harness of its own and yield its client."""
    with open_queue_harness() as queue_harness:
        async with queue_harness.server(engine, **options) as server:
            yield server.client


async def job_when_ended(client: httpx.AsyncClient, url: str) -> Any:
    """Wait for the end of the job and return its document."""
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await client.get(url, headers=ACCEPT_STREAM)
    return (await client.get(url)).json()


def without_event_ids(text: str) -> str:
    """Return a stream without its event ids, which must count from one."""
    lines = text.split("\n")
    ids = [line for line in lines if line.startswith("id: ")]
    assert ids == [f"id: {number + 1}" for number in range(len(ids))]
    return "\n".join(line for line in lines if not line.startswith("id: "))
