"""Traces for OpenTelemetry: off unless its own variables name where to send them, and then without other settings.

It needs the extra `otel`. Spans are exported by a thread; if the receiver fails, they are lost and nothing waits.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

_UNTRACED_PATHS = frozenset({"/health", "/ready", "/metrics"})
_FLUSH_MILLISECONDS = 2000
_SERVER_ERROR = 500


class Tracing:
    """The spans of one worker."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._provider = provider
        self.tracer: Tracer = provider.get_tracer("dragoman")

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
        """Return the app with a span for each request."""
        return _TracedApp(app, self.tracer)

    def flush(self) -> None:
        """Export what is left, for a short time."""
        self._provider.force_flush(_FLUSH_MILLISECONDS)


class _TracedApp:
    """Puts each request into a span, whose parent is that of the client's `traceparent` header.

    The app sees the header of its own span: what it passes on continues the trace from there.
    """

    def __init__(self, app: ASGIApp, tracer: "Tracer") -> None:
        from opentelemetry import context
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        from dragoman.gateway.execution.tracing import traceparent

        self._app = app
        self._tracer = tracer
        self._kind = SpanKind.SERVER
        self._propagator = TraceContextTextMapPropagator()
        self._attach, self._detach, self._in_context = context.attach, context.detach, set_span_in_context
        self._traceparent = traceparent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _UNTRACED_PATHS:
            await self._app(scope, receive, send)
            return
        span = self._tracer.start_span(scope["method"], context=self._parent(scope["headers"]), kind=self._kind)
        own = self._traceparent(span.get_span_context()).encode()
        scope["headers"] = [(b"traceparent", own), *(each for each in scope["headers"] if each[0] != b"traceparent")]
        token = self._attach(self._in_context(span))
        try:
            await self._app(scope, receive, _noting(scope, span, send) if span.is_recording() else send)
        except BaseException as error:
            span.set_attribute("error.type", type(error).__qualname__)
            raise
        finally:
            self._detach(token)
            span.end()

    def _parent(self, headers: Sequence[tuple[bytes, bytes]]) -> "Context | None":
        """Return the place in a trace that the client names. None: it names none."""
        sent = {
            name.decode(): value.decode("latin-1") for name, value in headers if name in (b"traceparent", b"tracestate")
        }
        return self._propagator.extract(sent) if sent else None


def _noting(scope: Scope, span: "Span", send: Send) -> Send:
    """Describe the request in its span, and return a `send` that adds the response's status."""
    span.set_attributes(
        {
            "http.request.method": scope["method"],
            "url.scheme": scope["scheme"],
            "url.path": scope["path"],
            "client.address": (scope.get("client") or ("",))[0],
        }
    )

    async def send_and_note(message: Message) -> None:
        if message["type"] == "http.response.start":
            span.set_attribute("http.response.status_code", message["status"])
            if message["status"] >= _SERVER_ERROR:
                span.set_attribute("error.type", str(message["status"]))
        await send(message)

    return send_and_note
