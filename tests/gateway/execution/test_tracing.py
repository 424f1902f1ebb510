"""Spans of what requests and jobs wait for, as a collector gets them."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import CollectorRegistry

from dragoman.accounts.database.connections import Database
from dragoman.accounts.ledger.operations import Settled
from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.core.errors import EngineFailed
from dragoman.core.events import Event
from dragoman.core.request import GenerationRequest
from dragoman.dialects.http.context import HttpOptions
from dragoman.engines.base import Engine
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.admission.recording import UNMETERED_ADMISSION
from dragoman.gateway.execution.tracing import TracingMetrics
from dragoman.gateway.ledger_connection import AccountsOptions
from dragoman.gateway.routing.catalog import Catalog, Deployment
from dragoman.gateway.routing.replica import Replica
from dragoman.server.accounting import AccountingServices
from dragoman.server.app import AppServices, LiveOptions
from dragoman.server.tracing import Tracing
from tests.support.captured_logs import capture_logs
from tests.support.collectors import SpanCollector, span_collector
from tests.support.dialects.streams import chat_body
from tests.support.echo_engines import BreakingEcho, FailurePoint, GatedEcho
from tests.support.jobs.queue_harness import ACCEPT_ONLY, QueueHarness, draft, queue_server, wait_until
from tests.support.metered import MODEL, sqlite_account
from tests.support.routed import turns
from tests.support.sqlite_files import create_sqlite_database
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
WAITED_SECONDS = 60


class Exported(msgspec.Struct):
    """Spans on their way to a collector."""

    provider: TracerProvider
    collector: SpanCollector

    def flush(self) -> SpanCollector:
        """Return the collector with all spans that have ended."""
        self.provider.force_flush()
        return self.collector


@pytest.fixture
def exported() -> Iterator[Exported]:
    with span_collector() as collector:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=collector.url)))
        yield Exported(provider, collector)
        provider.shutdown()


@contextlib.asynccontextmanager
async def traced_client(
    exported: Exported, deployment: Deployment, accounting: AccountingServices | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    tracing = Tracing(exported.provider)
    services = AppServices(
        Catalog([deployment]),
        None,
        admission=UNMETERED_ADMISSION,
        accounting=accounting,
        adapter_store=None,
        queue=None,
        tracing=tracing,
    )
    app = tracing.traced(services.app(LiveOptions(http=HttpOptions(max_body_bytes=10_000, keep_alive_seconds=15))))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        yield client


async def test_a_settlement_is_a_span_below_its_generation(exported: Exported, tmp_path: Path) -> None:
    with sqlite_account(tmp_path) as account:
        accounting = AccountingServices(
            AccountsOptions(database=account.database, journals=tmp_path / "journals", transport=LedgerThread)
        )
        headers = {"authorization": f"Bearer {account.new_key()}"}
        body = chat_body("Hello", model=MODEL)
        async with (
            accounting.opened(),
            traced_client(exported, Deployment.of(MODEL, (), EchoEngine()), accounting) as client,
        ):
            assert (await client.post("/v1/chat/completions", json=body, headers=headers)).status_code == 200
    collector = exported.flush()
    names = [span.name for span in collector.spans]
    assert sorted(names) == ["POST", "admission", "chat echo", "decode", "prefill", "settle"]
    [generation], [settle], [decode] = (collector.named(name) for name in ("chat echo", "settle", "decode"))
    assert settle.parent_span_id == generation.span_id
    assert settle.trace_id == generation.trace_id
    assert decode.start_time_unix_nano <= settle.start_time_unix_nano < settle.end_time_unix_nano
    assert settle.status.code == Status.STATUS_CODE_UNSET


async def test_a_settlement_that_fails_is_marked(exported: Exported) -> None:
    metrics = TracingMetrics(CollectorRegistry(), exported.provider.get_tracer("test"))
    timer = metrics.start_timer(MODEL, draft("Hello").requests[0], is_queued=True)
    settled: asyncio.Future[Settled] = asyncio.get_running_loop().create_future()
    timer.note_settlement(settled)
    settled.set_exception(OSError("The disk is full"))
    await turns()
    timer.end("ok")
    [settle] = exported.flush().named("settle")
    assert settle.status.code == Status.STATUS_CODE_ERROR
    assert [(each.key, each.value.string_value) for each in settle.attributes] == [("error.type", "OSError")]


async def test_the_wait_for_a_place_at_an_upstream_is_a_span_between_admission_and_prefill(exported: Exported) -> None:
    engine = GatedEcho(withhold_first_token=True, is_open=False)
    deployment = Deployment(name=MODEL, replicas=(Replica("echo/0", engine, is_upstream=True, concurrency=1),))
    leases = deployment.require_router().leases
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS), traced_client(exported, deployment) as client:
        first, second = (
            asyncio.create_task(client.post("/v1/chat/completions", json=chat_body(text, model=MODEL)))
            for text in ("first", "second")
        )
        await wait_until(lambda: engine.generation_started.is_set() and leases.waiting == 1)
        engine.gate.set()
        assert [(await task).status_code for task in (first, second)] == [200, 200]
    collector = exported.flush()
    [queue] = collector.named("queue")
    [generation] = [each for each in collector.named("chat echo") if each.span_id == queue.parent_span_id]
    phases = {span.name: span for span in collector.spans if span.parent_span_id == generation.span_id}
    assert phases.keys() == {"admission", "queue", "prefill", "decode", "attempt"}
    assert phases["admission"].end_time_unix_nano <= queue.end_time_unix_nano
    assert queue.end_time_unix_nano == phases["prefill"].start_time_unix_nano


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[QueueHarness]:
    with contextlib.closing(Database(create_sqlite_database(tmp_path / "accounts.db"))) as database:
        yield QueueHarness(database)


async def _run_late(harness: QueueHarness, tmp_path: Path, engine: Engine, exported: Exported) -> None:
    """Run a job some time after its submission."""
    async with queue_server(harness, tmp_path / "a", options=ACCEPT_ONLY) as server:
        caller = msgspec.structs.replace(harness.caller(), trace=f"00-{TRACE}-{PARENT}-01")
        job = await server.gateway.submit(draft("Hello"), caller)
    earlier = harness.job_row(job.id).submitted_at - WAITED_SECONDS * 1000
    harness.update_job(job.id, submitted_at=earlier)
    tracer = exported.provider.get_tracer("test")
    async with queue_server(
        harness, tmp_path / "b", engine=engine, make_metrics=lambda registry: TracingMetrics(registry, tracer)
    ) as server:
        with contextlib.suppress(EngineFailed):
            await server.read(job.id)


async def test_the_wait_of_a_job_is_a_span_below_its_first_attempt(
    harness: QueueHarness, tmp_path: Path, exported: Exported
) -> None:
    engine = BreakingEcho(FailurePoint(0, EngineFailed("The engine stopped")))
    await _run_late(harness, tmp_path, engine, exported)
    collector = exported.flush()
    [queue], [first, _second] = collector.named("queue"), collector.named("text_completion echo")
    assert queue.parent_span_id == first.span_id
    assert queue.end_time_unix_nano - queue.start_time_unix_nano >= WAITED_SECONDS * 10**9
    assert abs(queue.end_time_unix_nano - first.start_time_unix_nano) < 10**9


class _DefectiveEcho(EchoEngine):
    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        async for event in super().generate(request):
            yield event
            raise RuntimeError("a defect")


async def test_the_log_lines_of_a_job_name_its_generation(
    harness: QueueHarness, tmp_path: Path, exported: Exported
) -> None:
    with capture_logs() as lines:
        await _run_late(harness, tmp_path, _DefectiveEcho(), exported)
    [line] = [line for line in lines if line["event"] == "job_failed_unexpectedly"]
    [generation] = exported.flush().named("text_completion echo")
    assert (line["trace_id"], line["span_id"]) == (generation.trace_id.hex(), generation.span_id.hex())
