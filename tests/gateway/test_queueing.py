"""The queue without accounts, and where there is none."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from dragoman.accounts.database import Database
from dragoman.accounts.ledger_thread import LedgerThread
from dragoman.accounts.migrations import upgrade
from dragoman.accounts.usage import list_usage
from dragoman.core.errors import BadRequest, JobNotFound, ModelNotFound, Unauthenticated
from dragoman.core.events import Event
from dragoman.core.identifiers import key_digest, new_request_id
from dragoman.core.request import QUEUED
from dragoman.core.service import Caller
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.accounts import AccountsOptions
from dragoman.gateway.catalog import Catalog, Deployment
from dragoman.gateway.gateway import Gateway
from dragoman.gateway.meter import Meter
from dragoman.gateway.queueing import GatewayWorkshop
from dragoman.gateway.recording import RecordingKeyRing
from dragoman.jobs.meter import QueueMeter
from dragoman.jobs.options import QueueOptions
from dragoman.jobs.queue import JobQueue
from tests.support.breaking_echo import BreakingEcho
from tests.support.queues import draft, said

ADA, BEN = "sk-adas-0123456789", "sk-bens-0123456789"


@contextlib.asynccontextmanager
async def gateway(folder: Path, *keys: str, engine: EchoEngine | None = None) -> AsyncIterator[Gateway]:
    """One that records what is used, with these keys."""
    database = Database(f"sqlite:///{folder}/accounts.db")
    upgrade(database)
    options = AccountsOptions(database, folder / "journals", transport=LedgerThread)
    ring = RecordingKeyRing(map(key_digest, keys), options)
    registry = CollectorRegistry()
    meter = Meter(registry)
    catalog = Catalog([Deployment("echo", ("parrot",), engine or EchoEngine(), ("arcee",))])
    queue = JobQueue(database, QueueOptions(), 1)
    with contextlib.closing(database):
        async with ring.opened(), queue.opened(GatewayWorkshop(catalog, meter), QueueMeter(registry)):
            yield Gateway(catalog, meter, ring, queue=queue)


def caller(key: str | None) -> Caller:
    return Caller(new_request_id(), key)


async def read(asked: Gateway, job_id: str, key: str | None) -> list[Event]:
    async with contextlib.aclosing(await asked.follow_job(job_id, caller(key))) as events:
        return [event async for event in events]


async def test_without_accounts_a_job_costs_nothing_and_is_recorded(tmp_path: Path) -> None:
    async with gateway(tmp_path) as asked:
        assert asked.keeps_jobs
        job = await asked.submit(draft("Hello"), caller(None))
        assert said(await read(asked, job.id, None)) == "Hello"
        used = list_usage(Database(f"sqlite:///{tmp_path}/accounts.db"))
    assert [(row.result, row.completion_tokens, row.charge) for row in used] == [("finished", 6, 0)]


async def test_without_accounts_a_job_belongs_to_the_key_that_brought_it(tmp_path: Path) -> None:
    async with gateway(tmp_path, ADA, BEN) as asked:
        job = await asked.submit(draft("Hello"), caller(ADA))
        assert said(await read(asked, job.id, ADA)) == "Hello"
        with pytest.raises(JobNotFound):
            await asked.job(job.id, caller(BEN))
        with pytest.raises(JobNotFound):
            await asked.cancel_job(job.id, caller(BEN))
        with pytest.raises(Unauthenticated):
            await asked.job(job.id, caller("sk-nobodys-0123456789"))
        assert (await asked.job(job.id, caller(ADA))).state == "finished"


async def test_engines_are_told_that_a_request_was_queued_and_how_urgent_it_is(tmp_path: Path) -> None:
    engine = BreakingEcho()
    async with gateway(tmp_path, engine=engine) as asked:
        job = await asked.submit(draft("Hello", priority=7), caller(None))
        await read(asked, job.id, None)
    assert [request.priority for request in engine.asked] == [QUEUED + 7]


async def test_a_dialect_queues_only_for_models_that_it_shows(tmp_path: Path) -> None:
    async with gateway(tmp_path) as asked:
        with pytest.raises(ModelNotFound):
            await asked.shown_in("scale").submit(draft("Hello"), caller(None))
        job = await asked.shown_in("arcee").submit(draft("Hello"), caller(None))
        assert said(await read(asked.shown_in("scale"), job.id, None)) == "Hello"


async def test_a_server_without_a_database_says_what_its_queue_needs() -> None:
    asked = Gateway(Catalog([Deployment("echo", (), EchoEngine())]), Meter(CollectorRegistry()))
    assert not asked.keeps_jobs
    with pytest.raises(BadRequest, match=r"\[accounts\]"):
        await asked.submit(draft("Hello"), caller(None))
    with pytest.raises(BadRequest):
        await asked.job("job_1", caller(None))
