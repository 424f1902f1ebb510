"""Spans of requests and generations."""

from collections.abc import AsyncIterator, Sequence

import httpx
import msgspec
import pytest
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBasedTraceIdRatio,
    Sampler,
    SamplingResult,
    StaticSampler,
)
from opentelemetry.trace import Link, SpanKind, StatusCode
from opentelemetry.trace.span import TraceState
from opentelemetry.util.types import Attributes
from prometheus_client import CollectorRegistry

from dragoman.core.embedding import EmbeddingRequest, TextPair
from dragoman.core.errors import ReplicaFailed
from dragoman.core.request import JsonObjectFormat, SamplingParams, TextPrompt
from dragoman.dialects.http.context import HttpOptions
from dragoman.engines.base import Engine
from dragoman.gateway.admission.recording import UNMETERED_ADMISSION
from dragoman.gateway.execution.tracing import TracingMetrics
from dragoman.gateway.routing.catalog import Catalog, Deployment
from dragoman.gateway.routing.replica import Replica
from dragoman.server.app import AppServices, LiveOptions
from dragoman.server.tracing import Tracing
from dragoman.server.tracing_variables import exports_traces
from tests.support.captured_logs import capture_logs
from tests.support.dialects.streams import chat_body
from tests.support.echo_engines import BreakingEcho, FailurePoint
from tests.support.jobs.queue_harness import draft

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CLOCK_NANOSECONDS = 10_000_000
"""How exactly one clock is compared with another."""
SAMPLED = 1
"""A flag of a trace."""
SECRET = "a secret of the client"


class TracedServer:
    """An app with the echo engine whose spans are kept."""

    def __init__(self, client: httpx.AsyncClient, exporter: InMemorySpanExporter, engine: BreakingEcho) -> None:
        self.client = client
        self._exporter = exporter
        self._engine = engine

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        """All spans that have ended."""
        return self._exporter.get_finished_spans()

    @property
    def traces_of_generations(self) -> list[str]:
        """Of the requests that the engine got."""
        return [request.trace for request in self._engine.received_requests]


@pytest.fixture
def sampler() -> Sampler:
    """Which spans are recorded."""
    return ALWAYS_ON


@pytest.fixture
def ids() -> IdGenerator:
    """Makes the ids of traces and spans."""
    return RandomIdGenerator()


@pytest.fixture
def failures() -> list[FailurePoint]:
    """How the first attempts end."""
    return []


def _upstreams(engine: Engine) -> tuple[Replica, ...]:
    return tuple(Replica(f"echo/{number}", engine, is_upstream=True) for number in range(2))


@pytest.fixture
async def server(sampler: Sampler, ids: IdGenerator, failures: list[FailurePoint]) -> AsyncIterator[TracedServer]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler, id_generator=ids, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing, engine = Tracing(provider), BreakingEcho(*failures)
    services = AppServices(
        Catalog([Deployment(name="echo", aliases=("parrot",), replicas=_upstreams(engine))]),
        None,
        admission=UNMETERED_ADMISSION,
        accounting=None,
        adapter_store=None,
        queue=None,
        tracing=tracing,
    )
    app = services.app(LiveOptions(http=HttpOptions(max_body_bytes=10_000, keep_alive_seconds=15, access_log=True)))
    transport = httpx.ASGITransport(tracing.traced(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield TracedServer(client, exporter, engine)
    provider.shutdown()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_generation_is_a_span_below_that_of_its_request_in_the_clients_trace(
    server: TracedServer, stream: bool
) -> None:
    body = chat_body(SECRET, model="parrot", max_tokens=5, stream=stream)
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-session-id": "notes"}
    assert (await server.client.post("/v1/chat/completions?q=1", json=body, headers=headers)).status_code == 200
    *phases, generation, request = server.spans
    assert [phase.name for phase in phases] == ["admission", "prefill", "decode", "attempt"]
    assert [_parent(span) for span in server.spans] == [*[_id(generation)] * 4, _id(request), PARENT]
    assert {f"{span.context.trace_id:032x}" for span in server.spans if span.context is not None} == {TRACE}
    assert request.attributes is not None
    assert request.attributes["http.response.status_code"] == 200
    assert generation.name == "chat echo"
    attributes = dict(generation.attributes or {})
    assert str(attributes.pop("dragoman.upstream")).startswith("echo/")
    assert attributes.pop("gen_ai.response.time_to_first_chunk")
    assert attributes.pop("dragoman.request")
    assert attributes.pop("gen_ai.request.stream", False) == stream
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "dragoman",
        "gen_ai.request.model": "parrot",
        "gen_ai.conversation.id": "notes",
        "gen_ai.response.model": "echo",
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.temperature": attributes["gen_ai.request.temperature"],
        "gen_ai.request.top_p": attributes["gen_ai.request.top_p"],
        "gen_ai.usage.input_tokens": len("user: ") + len(SECRET),
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": 0,
        "gen_ai.response.finish_reasons": ("length",),
        "dragoman.attempts": 1,
    }
    assert [event.name for event in generation.events] == ["first token"]
    assert server.traces_of_generations == [f"00-{TRACE}-{_id(generation)}-01"]


def _id(span: ReadableSpan) -> str:
    return "" if span.context is None else f"{span.context.span_id:016x}"


def _parent(span: ReadableSpan) -> str:
    return "" if span.parent is None else f"{span.parent.span_id:016x}"


@pytest.mark.parametrize("failures", [[FailurePoint(0, ReplicaFailed("The connection was lost"))]])
async def test_an_attempt_that_fails_is_a_span_of_its_own(server: TracedServer) -> None:
    assert (await server.client.post("/v1/chat/completions", json=chat_body("hi", model="echo"))).status_code == 200
    attempt, second = [span for span in server.spans if span.name == "attempt"]
    assert attempt.kind == second.kind == SpanKind.CLIENT
    assert second.status.status_code == StatusCode.UNSET
    [generation] = [span for span in server.spans if span.name == "chat echo"]
    assert _parent(attempt) == _id(generation)
    assert attempt.status.status_code == StatusCode.ERROR
    assert generation.attributes is not None
    assert generation.attributes["dragoman.attempts"] == 2
    assert attempt.start_time is not None
    assert attempt.end_time is not None
    assert generation.start_time is not None
    assert generation.start_time - CLOCK_NANOSECONDS <= attempt.start_time <= attempt.end_time


async def test_no_span_holds_a_prompt_an_answer_a_query_or_a_header(server: TracedServer) -> None:
    headers = {"authorization": f"Bearer {SECRET}"}
    await server.client.post(f"/v1/chat/completions?q={SECRET}", json=chat_body(SECRET, model="echo"), headers=headers)
    assert SECRET not in "".join(span.to_json() for span in server.spans)


async def test_failures_are_marked_and_probes_are_not_traced(server: TracedServer) -> None:
    for path in ("/health", "/ready", "/metrics"):
        await server.client.get(path)
    assert len(server.spans) == 0
    body = chat_body("x" * 9000, model="echo")
    assert (await server.client.post("/v1/chat/completions", json=body)).status_code == 400
    failed = [span for span in server.spans if span.name == "chat echo"]
    assert all(span.status.status_code == StatusCode.ERROR for span in failed)
    assert server.spans[-1].name == "POST"
    assert all(span.end_time is not None for span in server.spans)


class CountingSampler(StaticSampler):
    """Counts its decisions. It is not one of OpenTelemetry's, so that requests are not decided about without it."""

    def __init__(self) -> None:
        super().__init__(Decision.DROP)
        self.decisions = 0

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        self.decisions += 1
        return super().should_sample(parent_context, trace_id, name, attributes=attributes)


@pytest.mark.parametrize("sampler", [ALWAYS_OFF, CountingSampler()])
async def test_what_is_not_sampled_is_answered_and_measured_without_a_span(
    server: TracedServer, sampler: Sampler
) -> None:
    assert (await server.client.post("/v1/chat/completions", json=chat_body("hi", model="echo"))).status_code == 200
    assert len(server.spans) == 0
    assert 'dragoman_requests_total{model="echo",result="ok"} 1.0' in (await server.client.get("/metrics")).text
    [trace] = server.traces_of_generations
    assert not int(trace.split("-")[3], 16) & SAMPLED, "whoever continues it does not sample it either"
    assert not isinstance(sampler, CountingSampler) or sampler.decisions == 1


class AlternatingIds(RandomIdGenerator):
    """Makes ids of traces of which every other is in the lower half, which is sampled."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def generate_trace_id(self) -> int:
        self.made.append(len(self.made) % 2 << 63 | 1 + len(self.made))
        return self.made[-1]


@pytest.mark.parametrize("sampler", [ParentBasedTraceIdRatio(0.5)])
@pytest.mark.parametrize("ids", [AlternatingIds()])
async def test_the_share_of_requests_that_is_asked_for_is_recorded(server: TracedServer, ids: AlternatingIds) -> None:
    for _ in range(4):
        await server.client.post("/v1/chat/completions", json=chat_body("hi", model="echo"))
    recorded = {span.context.trace_id for span in server.spans if span.context is not None}
    assert recorded == {1, 3}
    assert [int(trace.split("-")[1], 16) for trace in server.traces_of_generations] == ids.made[:4]


@pytest.mark.parametrize("sampler", [ParentBasedTraceIdRatio(1.0)])
async def test_what_its_client_does_not_record_is_continued_without_a_span(server: TracedServer) -> None:
    place = f"00-{TRACE}-{PARENT}-00"
    body = chat_body("hi", model="echo")
    await server.client.post("/v1/chat/completions", json=body, headers={"traceparent": place})
    assert len(server.spans) == 0
    assert server.traces_of_generations == [place]


async def test_the_log_lines_of_a_request_name_its_span(server: TracedServer) -> None:
    with capture_logs() as lines:
        await server.client.get("/nowhere")
        await server.client.post("/v1/chat/completions", json=chat_body("hi", model="echo"))
    requests = [span for span in server.spans if span.kind == SpanKind.SERVER]
    places = [(f"{span.context.trace_id:032x}", _id(span)) for span in requests if span.context is not None]
    assert [(line["trace_id"], line["span_id"]) for line in lines if line["event"] == "request_ended"] == places


@pytest.mark.parametrize("sampler", [ALWAYS_OFF])
async def test_the_log_lines_of_a_request_without_a_span_name_its_clients(server: TracedServer) -> None:
    body, headers = chat_body("hi", model="echo"), {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    with capture_logs() as lines:
        await server.client.post("/v1/chat/completions", json=body, headers=headers)
    assert [(line["trace_id"], line["span_id"]) for line in lines] == [(TRACE, PARENT)]


def test_a_job_has_a_trace_of_its_own_that_links_to_its_submitters() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    metrics = TracingMetrics(CollectorRegistry(), tracer)
    with tracer.start_as_current_span("whoever has the job run"):
        request = msgspec.structs.replace(draft("Hello").requests[0], trace=f"00-{TRACE}-{PARENT}-01")
        metrics.start_timer("echo", request, is_queued=True).end("ok")
    generation = exporter.get_finished_spans()[1]
    [link] = generation.links
    assert generation.parent is None
    assert f"{link.context.trace_id:032x}-{link.context.span_id:016x}" == f"{TRACE}-{PARENT}"
    provider.shutdown()


def test_a_generations_span_says_what_was_asked_for_and_can_be_encoded_whatever_that_is() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    metrics = TracingMetrics(CollectorRegistry(), provider.get_tracer("test"))
    sampling = SamplingParams(seed=2**64 - 1, top_k=3, presence_penalty=-0.5)
    [chat] = draft("Hello").requests
    chat = msgspec.structs.replace(chat, sampling=sampling, response_format=JsonObjectFormat())
    embedding = EmbeddingRequest(model="echo", inputs=(TextPrompt("a"),), dimensions=64)
    pair = EmbeddingRequest(model="echo", inputs=(TextPair("a", "b"),))
    for task in (chat, embedding, pair):
        metrics.start_timer("echo", task, is_queued=True).end("ok")
    spans = exporter.get_finished_spans()
    encode_spans(spans)
    generation, embeddings, rerank = (dict(span.attributes or {}) for span in spans if span.name.endswith(" echo"))
    assert generation["gen_ai.request.top_k"] == 3
    assert generation["gen_ai.request.presence_penalty"] == -0.5
    assert generation["gen_ai.output.type"] == "json"
    assert not {"gen_ai.request.seed", "gen_ai.request.frequency_penalty"} & generation.keys()
    assert embeddings["gen_ai.embeddings.dimension.count"] == 64
    assert [each["gen_ai.operation.name"] for each in (embeddings, rerank)] == ["embeddings", "rerank"]
    provider.shutdown()


def test_traces_are_exported_only_where_opentelemetrys_variables_say_so() -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}
    assert exports_traces(endpoint)
    assert exports_traces({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4318/v1/traces"})
    assert not exports_traces({})
    assert not exports_traces({"OTEL_EXPORTER_OTLP_ENDPOINT": ""})
    assert not exports_traces({**endpoint, "OTEL_SDK_DISABLED": "true"})
    assert not exports_traces({**endpoint, "OTEL_TRACES_EXPORTER": "none"})
