"""The spans of HTTP requests, by OpenTelemetry's conventions for servers.

Imported only if traces are exported: it needs the extra `otel`.
"""

from collections.abc import Awaitable, Sequence

from opentelemetry import context
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dragoman.core import logs
from dragoman.dialects.http.context import TRACE_HEADER, UNRECORDED_TRACE, sent_headers
from dragoman.gateway.execution.tracing import is_recorded, traceparent
from dragoman.server.head_sampling import HeadSampler

_UNTRACED_PATHS = frozenset({"/health", "/ready", "/metrics"})
_TRACE_HEADERS = frozenset({TRACE_HEADER})
_SERVER_ERROR = 500

_propagator = TraceContextTextMapPropagator()


class TracedApp:
    """Puts each request into a span, whose parent is that of the client's `traceparent` header.

    The app sees the header of its own span: what it passes on continues the trace from there. A request that is not
    recorded has no span. If it begins a trace, its place in that is in its scope, where it costs less than a header.
    """

    def __init__(self, app: ASGIApp, tracer: Tracer, head_sampler: HeadSampler | None) -> None:
        """Without a `head_sampler`, the tracer decides about each request."""
        self._app = app
        self._tracer = tracer
        self._head_sampler = head_sampler

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http" or scope["path"] in _UNTRACED_PATHS:
            return self._app(scope, receive, send)
        if self._head_sampler is not None:
            if sent_headers(scope).has_any(_TRACE_HEADERS):
                headers = self._head_sampler.unsampled_headers(scope["headers"])
                if headers is not None:
                    scope["headers"] = headers
                    return self._app(scope, receive, send)
            elif (place := self._head_sampler.unsampled_root()) is not None:
                scope[UNRECORDED_TRACE] = place
                return self._app(scope, receive, send)
        return self._record(scope, receive, send)

    async def _record(self, scope: Scope, receive: Receive, send: Send) -> None:
        span = self._tracer.start_span(scope["method"], context=_parent(scope["headers"]), kind=SpanKind.SERVER)
        place = traceparent(span.get_span_context())
        others = (header for header in scope["headers"] if header[0] != TRACE_HEADER)
        scope["headers"] = [(TRACE_HEADER, place.encode()), *others]
        token = context.attach(set_span_in_context(span))
        recorded_token = is_recorded.set(span.is_recording())
        logs_token = logs.trace_place.set(place)
        try:
            await self._app(scope, receive, _noting(scope, span, send) if span.is_recording() else send)
        except BaseException as error:
            span.set_attribute("error.type", type(error).__qualname__)
            raise
        finally:
            logs.trace_place.reset(logs_token)
            is_recorded.reset(recorded_token)
            context.detach(token)
            span.end()


def _parent(headers: Sequence[tuple[bytes, bytes]]) -> Context | None:
    """Return the place in a trace that the client names. None: it names none."""
    sent = {name.decode(): value.decode("latin-1") for name, value in headers if name in (TRACE_HEADER, b"tracestate")}
    return _propagator.extract(sent) if sent else None


def _noting(scope: Scope, span: Span, send: Send) -> Send:
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
