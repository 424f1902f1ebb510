"""Traces for OpenTelemetry: off unless its own variables name where to send them, and then without other settings.

It needs the extra `otel`. Spans are exported by a thread; if the receiver fails, they are lost and nothing waits.
"""

import os
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

_FLUSH_MILLISECONDS = 2000


class Tracing:
    """The spans of one worker."""

    def __init__(self, provider: "TracerProvider") -> None:
        """Make spans by a provider, which gives its tracers other ids from now on."""
        from dragoman.server.head_sampling import HeadSampler, TraceIds, sampling_bounds

        self._provider = provider
        provider.id_generator = ids = TraceIds(provider.id_generator)
        self.tracer: Tracer = provider.get_tracer("dragoman")
        bounds = sampling_bounds(provider.sampler)
        self._head_sampler = None if bounds is None else HeadSampler(bounds, ids)

    @classmethod
    def exporting(cls) -> "Tracing":
        """Export by OTLP over HTTP, as OpenTelemetry's variables say: endpoint, headers, sampler, resource."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        name = os.environ.get("OTEL_SERVICE_NAME", "dragoman")
        provider = TracerProvider(resource=Resource.create({"service.name": name}), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    def traced(self, app: ASGIApp) -> ASGIApp:
        """Return the app with a span for each request that is recorded."""
        from dragoman.server.traced_app import TracedApp

        return TracedApp(app, self.tracer, self._head_sampler)

    def flush(self) -> None:
        """Export what is left, for a short time."""
        self._provider.force_flush(_FLUSH_MILLISECONDS)
