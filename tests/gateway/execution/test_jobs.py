"""Queued requests without accounts, and a gateway without a queue."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from dragoman.accounts.administration.usage import list_usage
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.core.context import Caller, account_owner, key_digest, new_request_id
from dragoman.core.errors import BadRequest, JobNotFound, ModelNotFound, Unauthenticated
from dragoman.core.events import Event
from dragoman.core.request import QUEUED_PRIORITY_OFFSET
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.admission.recording import UsageRecordingAdmission
from dragoman.gateway.auth.static_keys import StaticKeyAuthenticator
from dragoman.gateway.execution.jobs import GatewayJobExecutor
from dragoman.gateway.execution.metrics import RequestMetrics
from dragoman.gateway.gateway import Gateway
from dragoman.gateway.ledger_connection import AccountsOptions
from dragoman.gateway.routing.catalog import Catalog, Deployment
from dragoman.jobs.metrics import QueueMetrics
from dragoman.jobs.service.queue import JobQueue
from dragoman.jobs.values.options import QueueOptions
from tests.support.echo_engines import BreakingEcho
from tests.support.jobs.queue_harness import QueueHarness, draft, queue_server, text_of

ADA, BEN = "sk-adas-0123456789", "sk-bens-0123456789"


@contextlib.asynccontextmanager
async def open_gateway(folder: Path, *keys: str, engine: EchoEngine | None = None) -> AsyncIterator[Gateway]:
    """Open a gateway with these keys that records usage."""
    database = Database(f"sqlite:///{folder}/accounts.db")
    upgrade(database)
    options = AccountsOptions(database=database, journals=folder / "journals", transport=LedgerThread)
    admission = UsageRecordingAdmission(options)
    registry = CollectorRegistry()
    metrics = RequestMetrics(registry)
    catalog = Catalog([Deployment.of("echo", ("parrot",), engine or EchoEngine(), ("arcee",))])
    queue = JobQueue(database, QueueOptions(), 1)
    authenticator = StaticKeyAuthenticator(map(key_digest, keys))
    executor = GatewayJobExecutor(catalog, metrics, authenticator)
    with contextlib.closing(database):
        async with admission.opened(), queue.opened(executor, QueueMetrics(registry)):
            yield Gateway(catalog, metrics, authenticator, admission, queue=queue)


def caller(key: str | None) -> Caller:
    return Caller(request_id=new_request_id(), key=key)


async def read(running_gateway: Gateway, job_id: str, key: str | None) -> list[Event]:
    async with contextlib.aclosing(await running_gateway.follow_job(job_id, caller(key))) as events:
        return [event async for event in events]


async def test_without_accounts_a_job_costs_nothing_and_is_recorded(tmp_path: Path) -> None:
    async with open_gateway(tmp_path) as running_gateway:
        assert running_gateway.has_queue
        job = await running_gateway.submit(draft("Hello"), caller(None))
        assert text_of(await read(running_gateway, job.id, None)) == "Hello"
        with contextlib.closing(Database(f"sqlite:///{tmp_path}/accounts.db")) as database:
            used = list_usage(database)
    assert [(row.result, row.completion_tokens, row.charge) for row in used] == [("finished", 6, 0)]


async def test_without_accounts_a_job_belongs_to_the_key_that_submitted_it(tmp_path: Path) -> None:
    async with open_gateway(tmp_path, ADA, BEN) as running_gateway:
        job = await running_gateway.submit(draft("Hello"), caller(ADA))
        assert text_of(await read(running_gateway, job.id, ADA)) == "Hello"
        with pytest.raises(JobNotFound):
            await running_gateway.job(job.id, caller(BEN))
        with pytest.raises(JobNotFound):
            await running_gateway.cancel_job(job.id, caller(BEN))
        with pytest.raises(Unauthenticated):
            await running_gateway.job(job.id, caller("sk-unknown-0123456789"))
        assert (await running_gateway.job(job.id, caller(ADA))).state == "finished"


async def test_engines_receive_the_priority_of_a_queued_request(tmp_path: Path) -> None:
    engine = BreakingEcho()
    async with open_gateway(tmp_path, engine=engine) as running_gateway:
        job = await running_gateway.submit(draft("Hello", priority=7), caller(None))
        await read(running_gateway, job.id, None)
    assert [request.priority for request in engine.received_requests] == [QUEUED_PRIORITY_OFFSET + 7]


async def test_the_place_of_a_submission_in_a_trace_is_stored_with_the_job(tmp_path: Path) -> None:
    engine = BreakingEcho()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with open_gateway(tmp_path, engine=engine) as running_gateway:
        job = await running_gateway.submit(draft("Hello"), Caller(request_id=new_request_id(), trace=trace))
        await read(running_gateway, job.id, None)
    assert [request.trace for request in engine.received_requests] == [trace]


async def generate(running_gateway: Gateway, key: str | None) -> None:
    async with contextlib.aclosing(await running_gateway.generate(draft("Hello").requests, caller(key))) as events:
        async for _ in events:
            pass


async def test_engines_receive_one_owner_of_a_key_whether_its_requests_are_queued_or_not(tmp_path: Path) -> None:
    engine = BreakingEcho()
    async with open_gateway(tmp_path, ADA, BEN, engine=engine) as running_gateway:
        for key in (ADA, BEN):
            await generate(running_gateway, key)
            job = await running_gateway.submit(draft("Hello"), caller(key))
            await read(running_gateway, job.id, key)
    assert [request.owner for request in engine.received_requests] == ["key 1", "key 1", "key 2", "key 2"]


async def test_engines_receive_the_account_as_owner_whichever_of_its_keys_is_used(tmp_path: Path) -> None:
    engine = BreakingEcho()
    database = Database(f"sqlite:///{tmp_path}/accounts.db")
    upgrade(database)
    with contextlib.closing(database):
        harness = QueueHarness(database)
        async with queue_server(harness, tmp_path / "journals", engine=engine) as server:
            for key in (harness.key, harness.new_key()):
                await generate(server.gateway, key)
                job = await server.submit("Hello", key=key)
                await server.read(job.id, key=key)
    assert [request.owner for request in engine.received_requests] == [account_owner(harness.account_id)] * 4


async def test_a_dialect_queues_only_for_its_visible_models(tmp_path: Path) -> None:
    async with open_gateway(tmp_path) as running_gateway:
        with pytest.raises(ModelNotFound):
            await running_gateway.for_dialect("scale").submit(draft("Hello"), caller(None))
        job = await running_gateway.for_dialect("arcee").submit(draft("Hello"), caller(None))
        assert text_of(await read(running_gateway.for_dialect("scale"), job.id, None)) == "Hello"


async def test_a_server_without_a_database_says_what_its_queue_needs() -> None:
    running_gateway = Gateway(Catalog([Deployment.of("echo", (), EchoEngine())]), RequestMetrics(CollectorRegistry()))
    assert not running_gateway.has_queue
    with pytest.raises(BadRequest, match=r"\[accounts\]"):
        await running_gateway.submit(draft("Hello"), caller(None))
    with pytest.raises(BadRequest):
        await running_gateway.job("job_1", caller(None))
