"""Servers in this process that share a queue, and a shop whose customers use it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from sqlalchemy import select, update

from dragoman.accounts.administration.accounts import create_account, deposit
from dragoman.accounts.administration.keys import KeyRules, create_key
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import job_events, jobs
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.accounts.process.transport import LedgerTransport
from dragoman.core.events import Delta, Event
from dragoman.core.idempotency import IdempotentRequest
from dragoman.core.identifiers import new_request_id
from dragoman.core.jobs import Job, JobDraft, StoredRequest
from dragoman.core.request import GenerationRequest, SamplingParams, TextPrompt
from dragoman.core.service import Caller
from dragoman.engines.base import Engine
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.auth.account_keys import AccountAccessController, AccountsOptions
from dragoman.gateway.execution.metrics import RequestMetrics
from dragoman.gateway.execution.queued import GatewayJobExecutor
from dragoman.gateway.gateway import Gateway
from dragoman.gateway.routing.catalog import Catalog, Deployment
from dragoman.jobs.metrics import QueueMetrics
from dragoman.jobs.service.queue import JobQueue
from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.webhooks.options import NO_WEBHOOKS, WebhookOptions
from tests.support.metered import AMPLE_BALANCE, MODEL, AccountFixture
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

_MAX_POLLS = 12_000
_POLL_SECONDS = 0.01


def draft(
    text: str,
    *,
    answer_id: str | None = None,
    attempt: IdempotentRequest | None = None,
    priority: int = 128,
    held: bool = False,
    webhook: str | None = None,
    n: int = 1,
    **fields: Any,
) -> JobDraft:
    """A request for the echo engine to say a text; `fields` are those of a GenerationRequest."""
    request = GenerationRequest(MODEL, TextPrompt(text), SamplingParams(), n=n, **fields)
    form = StoredRequest("echo.text", {"path": "value"}, text.encode(), answer_id or new_request_id(), 1_800_000_000)
    return JobDraft((request,), form, priority, held, attempt, webhook)


def text_of(events: Sequence[Event], index: int = 0) -> str:
    """The text of one choice."""
    return "".join(event.text for event in events if isinstance(event, Delta) and event.index == index)


async def wait_until(condition: Callable[[], bool]) -> None:
    """Return when it holds; what makes it hold may be in another server."""
    for _ in range(_MAX_POLLS):
        if condition():
            return
        await asyncio.sleep(_POLL_SECONDS)
    raise AssertionError("it does not come about")


class QueueHarness(AccountFixture):
    """A customer with a key, and others whose keys pay for jobs."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.key = self.new_key()

    def new_account(self, name: str, rules: KeyRules | None = None, balance: int = AMPLE_BALANCE) -> tuple[int, str]:
        """Its number and a key."""
        account_id = create_account(self.database, name).id
        deposit(self.database, account_id, balance)
        return account_id, create_key(self.database, account_id, rules=rules).secret

    def caller(self, key: str | None = None) -> Caller:
        return Caller(new_request_id(), key or self.key)

    def job_row(self, job_id: str) -> Any:
        """The job's."""
        with self.database.read() as connection:
            return connection.execute(select(jobs).where(jobs.c.id == job_id)).one()

    def update_job(self, job_id: str, **values: Any) -> None:
        """What time or another process would do to the job's row."""
        with self.database.write() as connection:
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(**values))

    def count_event_rows(self, job_id: str) -> int:
        """Rows of events."""
        with self.database.read() as connection:
            query = select(job_events).where(job_events.c.job == self.job_row(job_id).number)
            return len(connection.execute(query).all())


class QueueServer:
    """One server's gateway over the shop's database."""

    def __init__(self, gateway: Gateway, queue: JobQueue, harness: QueueHarness, registry: CollectorRegistry) -> None:
        self.gateway = gateway
        self.queue = queue
        self.harness = harness
        self._registry = registry

    def counter_value(self, name: str, **labels: str) -> float:
        """What one of its counters has counted."""
        return self._registry.get_sample_value(name, labels) or 0.0

    async def submit(self, text: str, *, key: str | None = None, **fields: Any) -> Job:
        return await self.gateway.submit(draft(text, **fields), self.harness.caller(key))

    async def job(self, job_id: str, *, key: str | None = None) -> Job:
        return await self.gateway.job(job_id, self.harness.caller(key))

    async def cancel(self, job_id: str, *, key: str | None = None) -> Job:
        return await self.gateway.cancel_job(job_id, self.harness.caller(key))

    async def read(self, job_id: str, *, key: str | None = None) -> list[Event]:
        """All events, as soon as there are any."""
        async with self.open_stream(job_id, key=key) as events:
            return [event async for event in events]

    @contextlib.asynccontextmanager
    async def open_stream(self, job_id: str, *, key: str | None = None) -> AsyncIterator[AsyncIterator[Event]]:
        """The events, which must all come in time."""
        stream = await self.gateway.follow_job(job_id, self.harness.caller(key))
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS), contextlib.aclosing(stream):
            yield aiter(stream)


@contextlib.asynccontextmanager
async def queue_server(
    harness: QueueHarness,
    journals: Path,
    *,
    engine: Engine | None = None,
    options: QueueOptions | None = None,
    webhooks: WebhookOptions = NO_WEBHOOKS,
) -> AsyncIterator[QueueServer]:
    """One for the shop's customers."""
    registry = CollectorRegistry()
    async with running_queue(
        harness.url, journals, engine or EchoEngine(), registry, options=options, webhooks=webhooks
    ) as (gateway, queue):
        yield QueueServer(gateway, queue, harness, registry)


@contextlib.asynccontextmanager
async def running_queue(
    url: str,
    journals: Path,
    engine: Engine,
    registry: CollectorRegistry,
    *,
    options: QueueOptions | None = None,
    webhooks: WebhookOptions = NO_WEBHOOKS,
    transport: type[LedgerTransport] = LedgerThread,
) -> AsyncIterator[tuple[Gateway, JobQueue]]:
    """One over connections of its own: what others know of it is in the database."""
    database = Database(url)
    catalog = Catalog([Deployment(MODEL, (), engine)])
    meter = RequestMetrics(registry)
    access = AccountAccessController(AccountsOptions(database, journals, transport=transport))
    queue = JobQueue(database, options or QueueOptions(), new_process_id(), webhooks)
    gateway = Gateway(catalog, meter, access, queue=queue, dialect="infermatic")
    with contextlib.closing(database):
        async with access.opened(), queue.opened(GatewayJobExecutor(catalog, meter), QueueMetrics(registry)):
            yield gateway, queue
