"""Spans of requests and generations."""

from collections.abc import AsyncIterator, Sequence

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import StatusCode

from dragoman.dialects.http.context import HttpOptions
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.admission.recording import UNMETERED_ADMISSION
from dragoman.gateway.routing.catalog import Catalog, Deployment
from dragoman.server.app import AppServices, LiveOptions
from dragoman.server.tracing import Tracing
from dragoman.server.tracing_variables import exports_traces
from tests.support.dialects.streams import chat_body

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "a secret of the client"


class TracedServer:
    """An app with the echo engine whose spans are kept."""

    def __init__(self, client: httpx.AsyncClient, exporter: InMemorySpanExporter) -> None:
        self.client = client
        self._exporter = exporter

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        """All spans that have ended."""
        return self._exporter.get_finished_spans()


@pytest.fixture
def sampler() -> Sampler:
    """Which spans are recorded."""
    return ALWAYS_ON


@pytest.fixture
async def server(sampler: Sampler) -> AsyncIterator[TracedServer]:
    exporter, provider = InMemorySpanExporter(), TracerProvider(sampler, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing(provider)
    services = AppServices(
        Catalog([Deployment.of("echo", ("parrot",), EchoEngine())]),
        None,
        admission=UNMETERED_ADMISSION,
        accounting=None,
        adapter_store=None,
        queue=None,
        tracing=tracing,
    )
    app = services.app(LiveOptions(http=HttpOptions(max_body_bytes=10_000, keep_alive_seconds=15)))
    transport = httpx.ASGITransport(tracing.traced(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield TracedServer(client, exporter)
    provider.shutdown()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_generation_is_a_span_below_that_of_its_request_in_the_clients_trace(
    server: TracedServer, stream: bool
) -> None:
    body = chat_body(SECRET, model="parrot", max_tokens=5, stream=stream)
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    assert (await server.client.post("/v1/chat/completions?q=1", json=body, headers=headers)).status_code == 200
    generation, request = server.spans
    assert request.context is not None
    assert request.parent is not None
    assert generation.parent is not None
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == PARENT
    assert generation.parent.span_id == request.context.span_id
    assert request.attributes is not None
    assert request.attributes["http.response.status_code"] == 200
    assert generation.name == "chat echo"
    attributes = dict(generation.attributes or {})
    assert attributes.pop("gen_ai.response.time_to_first_chunk")
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "dragoman",
        "gen_ai.request.model": "parrot",
        "gen_ai.response.model": "echo",
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.temperature": attributes["gen_ai.request.temperature"],
        "gen_ai.request.top_p": attributes["gen_ai.request.top_p"],
        "gen_ai.usage.input_tokens": len("user: ") + len(SECRET),
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": 0,
    }
    assert [event.name for event in generation.events] == ["first token"]


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


@pytest.mark.parametrize("sampler", [ALWAYS_OFF])
async def test_what_is_not_sampled_is_answered_and_measured_without_a_span(server: TracedServer) -> None:
    assert (await server.client.post("/v1/chat/completions", json=chat_body("hi", model="echo"))).status_code == 200
    assert len(server.spans) == 0
    assert 'dragoman_requests_total{model="echo",result="ok"} 1.0' in (await server.client.get("/metrics")).text


def test_traces_are_exported_only_where_opentelemetrys_variables_say_so() -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}
    assert exports_traces(endpoint)
    assert exports_traces({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4318/v1/traces"})
    assert not exports_traces({})
    assert not exports_traces({"OTEL_EXPORTER_OTLP_ENDPOINT": ""})
    assert not exports_traces({**endpoint, "OTEL_SDK_DISABLED": "true"})
    assert not exports_traces({**endpoint, "OTEL_TRACES_EXPORTER": "none"})
