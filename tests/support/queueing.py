"""A server in this process that keeps jobs, and what its clients need to know."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from dragoman.accounts.balances import create_account, deposit
from dragoman.accounts.database import Database
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.keys import create_key
from dragoman.accounts.tables import jobs
from dragoman.engines.base import Engine
from dragoman.jobs.options import QueueOptions
from dragoman.jobs.queue import JobQueue
from dragoman.jobs.webhooks.options import NO_WEBHOOKS, WebhookOptions
from dragoman.server.app import App
from dragoman.server.settings import DialectName
from tests.support.apps import client_of, echo_app, started
from tests.support.books import books_at
from tests.support.metered import PLENTY, Customer, sqlite_customer
from tests.support.patience import PATIENCE_SECONDS

ASYNC = {"prefer": "respond-async"}
STREAM = {"accept": "text/event-stream"}


class Place:
    """A database with two accounts, where servers keep their jobs."""

    def __init__(self, customer: Customer, folder: Path) -> None:
        self._folder = folder
        self.customer = customer
        self.secret = customer.new_key()
        other = create_account(customer.database, "other").id
        deposit(customer.database, other, PLENTY)
        self.other_secret = create_key(customer.database, other).secret

    @contextlib.asynccontextmanager
    async def server(
        self,
        engine: Engine | None = None,
        *,
        options: QueueOptions | None = None,
        keep_alive_seconds: float = 15,
        hosts: dict[str, DialectName] | None = None,
        webhooks: WebhookOptions = NO_WEBHOOKS,
    ) -> AsyncIterator["Server"]:
        """One over a deployment called `echo`, from its start to its end."""
        database = Database(self.customer.url)
        queue = JobQueue(database, options or QueueOptions(), new_process_id(), webhooks)
        with contextlib.closing(database), books_at(self.customer.url, self._folder) as books:
            app = echo_app(engine=engine, books=books, queue=queue, hosts=hosts, keep_alive_seconds=keep_alive_seconds)
            async with started(app), client_of(app, key=self.secret) as client:
                yield Server(app, client)

    def job_ids(self) -> list[str]:
        """Of all jobs there are."""
        with self.customer.database.read() as connection:
            return list(connection.execute(select(jobs.c.id).order_by(jobs.c.number)).scalars())


class Server:
    """An app, and a client of it."""

    def __init__(self, app: App, client: httpx.AsyncClient) -> None:
        self.app = app
        self.client = client


@contextlib.contextmanager
def open_place() -> Iterator[Place]:
    """A new one, gone at the end."""
    with tempfile.TemporaryDirectory() as name, sqlite_customer(Path(name)) as customer:
        yield Place(customer, Path(name) / "journals")


@contextlib.asynccontextmanager
async def serving(engine: Engine | None = None, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that has a place for itself."""
    with open_place() as place:
        async with place.server(engine, **options) as server:
            yield server.client


async def ended(client: httpx.AsyncClient, url: str) -> Any:
    """What is told of a job when it has ended."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        await client.get(url, headers=STREAM)
    return (await client.get(url)).json()


def without_ids(text: str) -> str:
    """A stream without its ids, which must count from one."""
    lines = text.split("\n")
    ids = [line for line in lines if line.startswith("id: ")]
    assert ids == [f"id: {number + 1}" for number in range(len(ids))]
    return "\n".join(line for line in lines if not line.startswith("id: "))
