"""OpenTelemetry's span of a generation, by its GenAI conventions.

The conventions (https://github.com/open-telemetry/semantic-conventions-genai) change; these are their names of 2026, as
constants of our own. Prompts and answers are not recorded. Imported only if traces are exported: it needs the extra
`otel`.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue
from prometheus_client import CollectorRegistry

from dragoman.accounts.ledger.operations import Settled
from dragoman.core.answered_by import AnsweredBy, FailedAttempt
from dragoman.core.context import Caller
from dragoman.core.embedding import EmbeddingRequest, TextPair
from dragoman.core.events import FinishReason, Usage
from dragoman.core.request import GenerationRequest, JsonObjectFormat, JsonSchemaFormat, TextPrompt, TokenPrompt
from dragoman.core.tasks import Task
from dragoman.gateway.execution.metrics import RequestMetrics, RequestResult, RequestTimer

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL, RESPONSE_MODEL = "gen_ai.request.model", "gen_ai.response.model"
FIRST_CHUNK_SECONDS = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS, OUTPUT_TOKENS = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
FINISH_REASONS = "gen_ai.response.finish_reasons"
REPLICA, ATTEMPTS = "dragoman.upstream", "dragoman.attempts"
ERROR_TYPE = "error.type"
DIMENSIONS = "gen_ai.embeddings.dimension.count"
CONVERSATION, STREAM = "gen_ai.conversation.id", "gen_ai.request.stream"
REQUEST = "dragoman.request"
"""The request's id, which the id of the response consists of or stands beside."""

_PROVIDER_NAME = "dragoman"

_MAX_INTEGER = 2**63 - 1
"""The largest integer in OTLP."""

_propagator = TraceContextTextMapPropagator()

is_recorded: ContextVar[bool] = ContextVar("dragoman.is_recorded", default=False)
"""Whether the HTTP request that is handled has a span. OpenTelemetry's own way to ask takes ten times as long."""


class TracingMetrics(RequestMetrics):
    """Request metrics whose timers are spans too."""

    def __init__(self, registry: CollectorRegistry, tracer: Tracer) -> None:
        super().__init__(registry)
        self._tracer = tracer

    def start_timer(
        self,
        model: str,
        task: Task | None = None,
        caller: Caller | None = None,
        *,
        streamed: bool = False,
        is_queued: bool = False,
    ) -> RequestTimer:
        """Start measuring one request, and its span below the current one. `model` names it in the metrics.

        A queued job has a trace of its own, which links to that of the request that submitted it.
        """
        timer = super().start_timer(model, task)
        if not is_queued and not is_recorded.get():
            return timer  # Nothing is recorded below an HTTP request that is not.
        operation = _operation(task)
        span = self._tracer.start_span(
            f"{operation} {model}",
            context=Context() if is_queued else None,
            kind=SpanKind.INTERNAL,
            links=_links(task) if is_queued else (),
        )
        if not span.is_recording():
            return timer
        attributes = {OPERATION: operation, PROVIDER: _PROVIDER_NAME, RESPONSE_MODEL: model}
        span.set_attributes({**attributes, **_requested(task)})
        if caller is not None:
            conversation = {CONVERSATION: caller.session or None, STREAM: streamed or None}
            span.set_attributes({REQUEST: caller.request_id, **_set(conversation)})
        return _TracingTimer(timer, self._tracer, span)


class _Phases:
    """The spans of what a generation consists of, below its own. Their times are those of a clock that nobody sets."""

    def __init__(self, tracer: Tracer, generation: Span) -> None:
        self._tracer = tracer
        self._context = set_span_in_context(generation, Context())
        self._epoch = time.time_ns() - time.monotonic_ns()

    def add(
        self,
        name: str,
        began_at: float,
        ended_at: float,
        error: str | None = None,
        *,
        replica: str | None = None,
        is_upstream: bool = False,
    ) -> None:
        """Add what has ended, with its times in seconds. `error` is why it failed, and `replica` where it was done."""
        span = self._tracer.start_span(
            name,
            context=self._context,
            kind=SpanKind.CLIENT if is_upstream else SpanKind.INTERNAL,
            attributes=None if replica is None else {REPLICA: replica},
            start_time=self._epoch + round(began_at * 1e9),
        )
        if error is not None:
            span.set_attribute(ERROR_TYPE, error)
            span.set_status(Status(StatusCode.ERROR))
        span.end(self._epoch + round(ended_at * 1e9))


class _TracingTimer(RequestTimer):
    """Passes all on to another timer, and notes it in a span and in one below it for each phase."""

    def __init__(self, timer: RequestTimer, tracer: Tracer, span: Span) -> None:
        self._timer = timer
        self._span = span
        self._phases = _Phases(tracer, span)
        self._started_at = self._phase_began_at = time.monotonic()
        self._finish_reasons: list[FinishReason] = []
        self._has_tokens = False
        self._phase = "admission"
        self._answered_by: AnsweredBy | None = None

    @property
    def trace(self) -> str:
        return traceparent(self._span.get_span_context())

    def note_admission(self) -> None:
        self._begin_phase("prefill", time.monotonic())

    def note_wait(self, began_at: float, ended_at: float) -> None:
        self._phases.add("queue", began_at, ended_at)
        if self._phase == "prefill" and began_at >= self._phase_began_at:
            self._phase_began_at = ended_at

    def note_answer(self, answered_by: AnsweredBy) -> None:
        self._answered_by = answered_by
        self._span.set_attributes({REPLICA: answered_by.replica, ATTEMPTS: answered_by.attempts})

    def note_failure(self, failure: FailedAttempt) -> None:
        self._add_attempt(failure, failure.began_at, failure.ended_at, failure.outcome)

    def _add_attempt(
        self, attempt: AnsweredBy | FailedAttempt, began_at: float, ended_at: float, error: str | None
    ) -> None:
        replica, is_upstream = attempt.replica, attempt.is_upstream
        self._phases.add("attempt", began_at, ended_at, error, replica=replica, is_upstream=is_upstream)

    def note_settlement(self, settled: "asyncio.Future[Settled]") -> None:
        began_at = time.monotonic()

        def on_settled(_settled: "asyncio.Future[Settled]") -> None:
            error = None if settled.cancelled() else settled.exception()
            self._phases.add("settle", began_at, time.monotonic(), None if error is None else type(error).__name__)

        settled.add_done_callback(on_settled)

    def note_finish(self, reason: FinishReason) -> None:
        self._finish_reasons.append(reason)

    def observe_tokens(self, index: int, count: int) -> None:
        if not self._has_tokens:
            self._has_tokens = True
            now = time.monotonic()
            self._span.set_attribute(FIRST_CHUNK_SECONDS, now - self._started_at)
            self._span.add_event("first token")
            self._begin_phase("decode", now)
        self._timer.observe_tokens(index, count)

    def observe_usage(self, usage: Usage) -> None:
        self._span.set_attributes(
            {
                INPUT_TOKENS: usage.prompt_tokens,
                OUTPUT_TOKENS: usage.completion_tokens,
                CACHED_TOKENS: usage.cached_tokens,
                REASONING_TOKENS: usage.reasoning_tokens,
            }
        )
        self._timer.observe_usage(usage)

    def end(self, result: RequestResult, generated_tokens: int = 0) -> None:
        if self._finish_reasons:
            self._span.set_attribute(FINISH_REASONS, self._finish_reasons)
        error = None if result == "ok" else result
        now = time.monotonic()
        self._phases.add(self._phase, self._phase_began_at, now, error)
        if self._answered_by is not None and self._answered_by.began_at is not None:
            self._add_attempt(self._answered_by, self._answered_by.began_at, now, error)
        if error is not None:
            self._span.set_attribute(ERROR_TYPE, error)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()
        self._timer.end(result, generated_tokens)

    def _begin_phase(self, phase: str, now: float) -> None:
        self._phases.add(self._phase, self._phase_began_at, now)
        self._phase, self._phase_began_at = phase, now


def traceparent(context: SpanContext) -> str:
    """Return the header that puts what follows below a span (https://www.w3.org/TR/trace-context/)."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _links(task: Task | None) -> Sequence[Link]:
    """Return the link to the request that submitted a job."""
    if task is None or not task.trace:
        return ()
    carrier = {"traceparent": task.trace}
    submitter = get_current_span(_propagator.extract(carrier, context=Context())).get_span_context()
    return (Link(submitter),) if submitter.is_valid else ()


def _operation(task: Task | None) -> str:
    match task:
        case EmbeddingRequest(inputs=(TextPair(), *_)):
            return "rerank"
        case EmbeddingRequest():
            return "embeddings"
        case GenerationRequest(prompt=TextPrompt() | TokenPrompt()):
            return "text_completion"
    return "chat"


def _requested(task: Task | None) -> Mapping[str, AttributeValue]:
    """Return what was asked for, as far as it was set."""
    if not isinstance(task, GenerationRequest):
        return {} if task is None else {REQUEST_MODEL: task.model, **_set({DIMENSIONS: task.dimensions})}
    sampling = task.sampling
    attributes: dict[str, AttributeValue] = {
        REQUEST_MODEL: task.model,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
    }
    optional = {
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.seed": sampling.seed,
        "gen_ai.request.choice.count": task.n if task.n != 1 else None,
        "gen_ai.request.stop_sequences": sampling.stop or None,
        "gen_ai.request.top_k": sampling.top_k if sampling.top_k > 0 else None,
        "gen_ai.request.presence_penalty": sampling.presence_penalty or None,
        "gen_ai.request.frequency_penalty": sampling.frequency_penalty or None,
        "gen_ai.output.type": "json" if isinstance(task.response_format, JsonObjectFormat | JsonSchemaFormat) else None,
    }
    return attributes | _set(optional)


def _set(optional: Mapping[str, AttributeValue | None]) -> dict[str, AttributeValue]:
    """Return what is not None, and no integer that OTLP cannot carry: it would cost all spans that are sent with it."""
    return {
        name: value
        for name, value in optional.items()
        if value is not None and not (isinstance(value, int) and value > _MAX_INTEGER)
    }
