"""Apps in this process with a queue, and helpers for their HTTP clients."""

import asyncio
import contextlib
import functools
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

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
from tests.support.metered import AMPLE_BALANCE, AccountFixture, create_priced_account
from tests.support.sqlite_files import SqliteTemplate, create_sqlite_template
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

RESPOND_ASYNC = {"prefer": "respond-async"}
ACCEPT_STREAM = {"accept": "text/event-stream"}


class Customers(NamedTuple):
    """Two accounts of a database, with a key each."""

    account_id: int
    secret: str
    other_secret: str


def create_customers(database: Database, balance: int) -> Customers:
    """Create both, and a price for the model. The first has this balance."""
    account_id = create_priced_account(database, balance)
    other = create_account(database, "other").id
    deposit(database, other, AMPLE_BALANCE)
    return Customers(account_id, create_key(database, account_id).secret, create_key(database, other).secret)


class HttpQueueHarness:
    """A database with two accounts, shared by the apps that it starts."""

    def __init__(self, database: Database, customers: Customers, folder: Path) -> None:
        self._folder = folder
        self.customer = AccountFixture(database, account_id=customers.account_id)
        self.secret = customers.secret
        self.other_secret = customers.other_secret

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
def open_queue_harness(balance: int = AMPLE_BALANCE) -> Iterator[HttpQueueHarness]:
    """Create a harness in a temporary folder."""
    template = _template(balance)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with contextlib.closing(Database(template.copy_to(folder / "accounts.db"))) as database:
            yield HttpQueueHarness(database, template.result, folder / "journals")


@functools.cache
def _template(balance: int) -> SqliteTemplate[Customers]:
    return create_sqlite_template(lambda database: create_customers(database, balance))


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
