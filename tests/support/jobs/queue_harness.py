"""Gateways in this process that share a queue in one database, and the accounts that use it."""

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
from dragoman.accounts.database.sessions import Clock
from dragoman.accounts.database.tables import job_events, jobs
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.ledger.operations import Admission
from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.accounts.process.transport import LedgerTransport
from dragoman.core.context import Caller, new_request_id
from dragoman.core.events import Delta, Event
from dragoman.core.idempotency import IdempotentRequest
from dragoman.core.jobs import Job, JobDraft, StoredRequest
from dragoman.core.request import GenerationRequest, SamplingParams, TextPrompt
from dragoman.engines.base import Engine
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.admission.ledger import LedgerAdmission
from dragoman.gateway.auth.account_keys import AccountKeyAuthenticator
from dragoman.gateway.execution.jobs import GatewayJobExecutor
from dragoman.gateway.execution.metrics import RequestMetrics
from dragoman.gateway.gateway import Gateway
from dragoman.gateway.ledger_connection import AccountsOptions, LedgerConnection
from dragoman.gateway.routing.catalog import Catalog, Deployment
from dragoman.jobs.metrics import QueueMetrics
from dragoman.jobs.service.queue import JobQueue
from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.values.payloads import pack_submission
from dragoman.jobs.values.rows import PackedSubmission, Submission
from dragoman.jobs.webhooks.options import NO_WEBHOOKS, WebhookOptions
from tests.support.metered import AMPLE_BALANCE, MODEL, AccountFixture
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

_MAX_POLLS = 12_000
_POLL_SECONDS = 0.01

ACCEPT_ONLY = QueueOptions(concurrency=0)
"""A server with these options runs no jobs."""


def draft(
    text: str,
    *,
    answer_id: str | None = None,
    idempotent_request: IdempotentRequest | None = None,
    priority: int = 128,
    client_waits: bool = False,
    webhook: str | None = None,
    n: int = 1,
    model: str = MODEL,
    **fields: Any,
) -> JobDraft:
    """Return a request that the echo engine answers with the text. `fields`: fields of the GenerationRequest."""
    request = GenerationRequest(model=model, prompt=TextPrompt(text), sampling=SamplingParams(), n=n, **fields)
    stored_request = StoredRequest(
        codec="echo.text",
        arguments={"path": "value"},
        body=text.encode(),
        answer_id=answer_id or new_request_id(),
        created_at=1_800_000_000,
    )
    return JobDraft(
        requests=(request,),
        stored_request=stored_request,
        priority=priority,
        client_waits=client_waits,
        idempotent_request=idempotent_request,
        webhook=webhook,
    )


def unmetered_submission(owner: str = "", priority: int = 128) -> PackedSubmission:
    """Return a submission of an owner without a key, whose answer is one letter."""
    request_id = new_request_id()
    admission = Admission(
        request_id=request_id,
        key_digest=None,
        model=MODEL,
        dialect="infermatic",
        prompt_tokens=0,
        max_completion_tokens=0,
    )
    return pack_submission(Submission(draft("x", answer_id=request_id, priority=priority), admission, owner))


def text_of(events: Sequence[Event], index: int = 0) -> str:
    """Return the text of one choice."""
    return "".join(event.text for event in events if isinstance(event, Delta) and event.index == index)


async def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until the condition holds, which another process may bring about."""
    for _ in range(_MAX_POLLS):
        if condition():
            return
        await asyncio.sleep(_POLL_SECONDS)
    raise AssertionError("the condition did not become true in time")


class QueueHarness(AccountFixture):
    """A database with an account, a key and the jobs of both."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.key = self.new_key()

    def new_account(self, name: str, rules: KeyRules | None = None, balance: int = AMPLE_BALANCE) -> tuple[int, str]:
        """Create another account. Returns its id and a key."""
        account_id = create_account(self.database, name).id
        deposit(self.database, account_id, balance)
        return account_id, create_key(self.database, account_id, rules=rules).secret

    def caller(self, key: str | None = None) -> Caller:
        return Caller(request_id=new_request_id(), key=key or self.key)

    def job_row(self, job_id: str) -> Any:
        """Return the row of the job."""
        with self.database.read() as connection:
            return connection.execute(select(jobs).where(jobs.c.id == job_id)).one()

    def update_job(self, job_id: str, **values: Any) -> None:
        """Change the row of the job, as time or another process would."""
        with self.database.write() as connection:
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(**values))

    def count_event_rows(self, job_id: str) -> int:
        """Return how many rows the events of the job take."""
        with self.database.read() as connection:
            query = select(job_events).where(job_events.c.job == self.job_row(job_id).number)
            return len(connection.execute(query).all())


class QueueServer:
    """The gateway and the queue of one server over the harness's database."""

    def __init__(self, gateway: Gateway, queue: JobQueue, harness: QueueHarness, registry: CollectorRegistry) -> None:
        self.gateway = gateway
        self.queue = queue
        self.harness = harness
        self._registry = registry

    def counter_value(self, name: str, **labels: str) -> float:
        """Return the value of a counter of this server."""
        return self._registry.get_sample_value(name, labels) or 0.0

    async def submit(self, text: str, *, key: str | None = None, **fields: Any) -> Job:
        return await self.gateway.submit(draft(text, **fields), self.harness.caller(key))

    async def job(self, job_id: str, *, key: str | None = None) -> Job:
        return await self.gateway.job(job_id, self.harness.caller(key))

    async def cancel(self, job_id: str, *, key: str | None = None) -> Job:
        return await self.gateway.cancel_job(job_id, self.harness.caller(key))

    async def read(self, job_id: str, *, key: str | None = None) -> list[Event]:
        """Return all events of the job, once it has ended."""
        async with self.open_stream(job_id, key=key) as events:
            return [event async for event in events]

    @contextlib.asynccontextmanager
    async def open_stream(self, job_id: str, *, key: str | None = None) -> AsyncIterator[AsyncIterator[Event]]:
        """Stream the events of the job, with a time limit."""
        stream = await self.gateway.follow_job(job_id, self.harness.caller(key))
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS), contextlib.aclosing(stream):
            yield aiter(stream)


@contextlib.asynccontextmanager
async def queue_server(
    harness: QueueHarness,
    journals: Path,
    *,
    engine: Engine | Deployment | None = None,
    options: QueueOptions | None = None,
    webhooks: WebhookOptions = NO_WEBHOOKS,
    make_metrics: Callable[[CollectorRegistry], RequestMetrics] = RequestMetrics,
    clock: Clock | None = None,
) -> AsyncIterator[QueueServer]:
    """Run a server over the harness's database, with one engine or with the replicas of a deployment."""
    registry = CollectorRegistry()
    async with running_queue(
        harness.url,
        journals,
        engine or EchoEngine(),
        registry,
        options=options,
        webhooks=webhooks,
        make_metrics=make_metrics,
        clock=clock,
    ) as (gateway, queue):
        yield QueueServer(gateway, queue, harness, registry)


@contextlib.asynccontextmanager
async def running_queue(
    url: str,
    journals: Path,
    engine: Engine | Deployment,
    registry: CollectorRegistry,
    *,
    options: QueueOptions | None = None,
    webhooks: WebhookOptions = NO_WEBHOOKS,
    transport: type[LedgerTransport] = LedgerThread,
    make_metrics: Callable[[CollectorRegistry], RequestMetrics] = RequestMetrics,
    clock: Clock | None = None,
) -> AsyncIterator[tuple[Gateway, JobQueue]]:
    """Run a gateway and a queue with connections of their own, so that servers share the database only."""
    database = Database(url, clock)
    catalog = Catalog([engine if isinstance(engine, Deployment) else Deployment.of(MODEL, (), engine)])
    metrics = make_metrics(registry)
    connection = LedgerConnection(
        AccountsOptions(database=database, journals=journals, transport=transport), new_process_id()
    )
    authenticator = AccountKeyAuthenticator(connection)
    admission = LedgerAdmission(connection, authenticator)
    queue = JobQueue(database, options or QueueOptions(), new_process_id(), webhooks)
    gateway = Gateway(catalog, metrics, authenticator, admission, queue=queue).for_dialect("infermatic")
    executor = GatewayJobExecutor(catalog, metrics, authenticator)
    with contextlib.closing(database):
        async with admission.opened(), queue.opened(executor, QueueMetrics(registry)):
            yield gateway, queue
