"""OpenTelemetry's span of a generation, by its GenAI conventions.

The conventions (https://github.com/open-telemetry/semantic-conventions-genai) change; these are their names of 2026, as
constants of our own. Prompts and answers are not recorded. Imported only if traces are exported: it needs the extra
`otel`.
"""

import time
from collections.abc import Mapping

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue
from prometheus_client import CollectorRegistry

from dragoman.core.embedding import EmbeddingRequest
from dragoman.core.events import Usage
from dragoman.core.request import GenerationRequest, TextPrompt, TokenPrompt
from dragoman.core.tasks import Task
from dragoman.gateway.execution.metrics import RequestMetrics, RequestResult, RequestTimer

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL, RESPONSE_MODEL = "gen_ai.request.model", "gen_ai.response.model"
FIRST_CHUNK_SECONDS = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS, OUTPUT_TOKENS = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
ERROR_TYPE = "error.type"

_PROVIDER_NAME = "dragoman"


class TracingMetrics(RequestMetrics):
    """Request metrics whose timers are spans too."""

    def __init__(self, registry: CollectorRegistry, tracer: Tracer) -> None:
        super().__init__(registry)
        self._tracer = tracer

    def start_timer(self, model: str, task: Task | None = None) -> RequestTimer:
        """Start measuring one request, and its span below the current one. `model` names it in the metrics."""
        timer = super().start_timer(model, task)
        operation = _operation(task)
        span = self._tracer.start_span(f"{operation} {model}", kind=SpanKind.INTERNAL)
        if not span.is_recording():  # It was not sampled, and costs nothing more.
            return timer
        attributes = {OPERATION: operation, PROVIDER: _PROVIDER_NAME, RESPONSE_MODEL: model}
        span.set_attributes({**attributes, **_requested(task)})
        return _TracingTimer(timer, span)


class _TracingTimer(RequestTimer):
    """Passes all on to another timer, and notes it in a span."""

    def __init__(self, timer: RequestTimer, span: Span) -> None:
        self._timer = timer
        self._span = span
        self._started_at = time.monotonic()
        self._has_tokens = False

    def observe_tokens(self, index: int, count: int) -> None:
        if not self._has_tokens:
            self._has_tokens = True
            self._span.set_attribute(FIRST_CHUNK_SECONDS, time.monotonic() - self._started_at)
            self._span.add_event("first token")
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
        if result != "ok":
            self._span.set_attribute(ERROR_TYPE, result)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()
        self._timer.end(result, generated_tokens)


def _operation(task: Task | None) -> str:
    match task:
        case EmbeddingRequest():
            return "embeddings"
        case GenerationRequest(prompt=TextPrompt() | TokenPrompt()):
            return "text_completion"
    return "chat"


def _requested(task: Task | None) -> Mapping[str, AttributeValue]:
    """Return what was asked for, as far as it was set."""
    if not isinstance(task, GenerationRequest):
        return {} if task is None else {REQUEST_MODEL: task.model}
    sampling = task.sampling
    attributes: dict[str, AttributeValue] = {
        REQUEST_MODEL: task.model,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
    }
    optional: dict[str, AttributeValue | None] = {
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.seed": sampling.seed,
        "gen_ai.request.choice.count": task.n if task.n != 1 else None,
        "gen_ai.request.stop_sequences": sampling.stop or None,
    }
    return attributes | {name: value for name, value in optional.items() if value is not None}
