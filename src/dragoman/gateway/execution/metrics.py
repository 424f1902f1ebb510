"""Prometheus metrics of requests."""

import asyncio
import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, values

from dragoman.accounts.ledger.operations import Settled
from dragoman.core.answered_by import AnsweredBy, FailedAttempt
from dragoman.core.context import Caller
from dragoman.core.events import FinishReason, Usage, UsageSource
from dragoman.core.tasks import Task

RequestResult = Literal["ok", "refused", "failed", "cancelled"]

_TIME_TO_FIRST_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_DURATION_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_INTER_TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


_OBSERVATION_SECONDS = 1.0
"""Intervals between the tokens of a request are observed at its end and, until then, so often."""

_DOUBLE_BYTES = 8

_OTHERS_COUNTED: tuple[UsageSource, ...] = ("upstream", "counted", "partial", "estimated")


def file_values(process_id: int) -> type:
    """Return the class of the values that one process counts in its own files, as prometheus_client collects them.

    The process does not fork and counts in one thread only: its id is never asked for, and nothing is locked.
    """
    base = values.MultiProcessValue(lambda: process_id)  # type: ignore[no-untyped-call]

    class FileValue(base):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)
            # A mapping that its file has outgrown still shows the file.
            start = self._file._positions[self._key]
            self._written = memoryview(self._file._m)[start : start + _DOUBLE_BYTES].cast("d")

        def inc(self, amount: float) -> None:
            self._written[0] += amount  # One copy of eight bytes: readers never see a part of it.

        def get(self) -> float:
            return self._written[0]

    return FileValue


class RequestCounter(Counter):
    """A counter that takes amounts as they are: checking them costs more than counting them."""

    def inc(self, amount: float = 1, exemplar: dict[str, str] | None = None) -> None:  # noqa: ARG002
        self._value.inc(amount)


class RequestHistogram(Histogram):
    """A histogram that finds the bucket by bisection, and takes many observations at once."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:  # noqa: ARG002
        self._sum.inc(amount)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)

    def observe_all(self, amounts: Sequence[float]) -> None:
        """Observe all amounts: one by one, each would write to a shared file twice."""
        self._sum.inc(sum(amounts))
        ordered = sorted(amounts)
        counted = 0
        for bucket, bound in enumerate(self._upper_bounds):
            if counted == len(ordered):
                return
            if smaller := bisect_right(ordered, bound, counted) - counted:
                self._buckets[bucket].inc(smaller)
                counted += smaller


class _ModelMetrics(NamedTuple):
    """One model's metrics, looked up once: tokens come too fast to look them up for each."""

    requests: dict[RequestResult, Counter]
    prompt_tokens: Counter
    cached_tokens: Counter
    completion_tokens: Counter
    time_to_first_token: Histogram
    inter_token: RequestHistogram
    duration: Histogram
    usage_sources: dict[UsageSource, Counter]


class RequestMetrics:
    """The metrics of one worker process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = RequestCounter(
            "dragoman_requests", "Requests ended, by how they ended", ("model", "result"), registry=registry
        )
        self._prompt_tokens = RequestCounter(
            "dragoman_prompt_tokens", "Prompt tokens of answered requests", ("model",), registry=registry
        )
        self._cached_tokens = RequestCounter(
            "dragoman_cached_prompt_tokens",
            "Prompt tokens that were shared instead of computed",
            ("model",),
            registry=registry,
        )
        self._completion_tokens = RequestCounter(
            "dragoman_completion_tokens", "Tokens generated", ("model",), registry=registry
        )
        self._time_to_first_token = RequestHistogram(
            "dragoman_time_to_first_token_seconds",
            "From a request's arrival at the gateway to its first token",
            ("model",),
            buckets=_TIME_TO_FIRST_TOKEN_BUCKETS,
            registry=registry,
        )
        self._inter_token = RequestHistogram(
            "dragoman_inter_token_latency_seconds",
            "Between two consecutive tokens of one choice",
            ("model",),
            buckets=_INTER_TOKEN_BUCKETS,
            registry=registry,
        )
        self._duration = RequestHistogram(
            "dragoman_request_duration_seconds",
            "From a request's arrival at the gateway to its end, but for refused ones",
            ("model",),
            buckets=_DURATION_BUCKETS,
            registry=registry,
        )
        self._usage_sources = RequestCounter(
            "dragoman_upstream_usage_source",
            "Answers of other servers, by who counted their tokens: upstream, counted, partial or estimated",
            ("model", "source"),
            registry=registry,
        )
        self._by_model: dict[str, _ModelMetrics] = {}

    def start_timer(
        self,
        model: str,
        task: Task | None = None,  # noqa: ARG002
        caller: Caller | None = None,  # noqa: ARG002
        *,
        streamed: bool = False,  # noqa: ARG002
        is_queued: bool = False,  # noqa: ARG002
    ) -> "RequestTimer":
        """Start measuring one request, or a job that was queued. Traces show what is asked for, and by whom."""
        metrics = self._by_model.get(model)
        if metrics is None:
            metrics = self._by_model[model] = self._model_metrics(model)
        return RequestTimer(metrics)

    def _model_metrics(self, model: str) -> _ModelMetrics:
        results: tuple[RequestResult, ...] = ("ok", "refused", "failed", "cancelled")
        return _ModelMetrics(
            requests={result: self._requests.labels(model, result) for result in results},
            prompt_tokens=self._prompt_tokens.labels(model),
            cached_tokens=self._cached_tokens.labels(model),
            completion_tokens=self._completion_tokens.labels(model),
            time_to_first_token=self._time_to_first_token.labels(model),
            inter_token=self._inter_token.labels(model),
            duration=self._duration.labels(model),
            usage_sources={source: self._usage_sources.labels(model, source) for source in _OTHERS_COUNTED},
        )


class RequestTimer:
    """Measures one request. Call `end` exactly once."""

    def __init__(self, metrics: _ModelMetrics) -> None:
        self._metrics = metrics
        self._started_at = time.monotonic()
        self._last_token_at: dict[int, float] = {}
        self._intervals: list[float] = []
        """Between tokens, not observed yet."""
        self._observed_at = self._started_at

    @property
    def trace(self) -> str:
        """The place in a trace of what is done for the request, as core.context.Caller has it; empty: it has none."""
        return ""

    def note_admission(self) -> None:
        """Note that the request may run, for traces."""

    def note_wait(self, began_at: float, ended_at: float) -> None:
        """Note that the request has waited in a queue, in seconds of time.monotonic, for traces."""

    def note_settlement(self, settled: "asyncio.Future[Settled]") -> None:
        """Note that the request is being settled, for traces."""

    def note_answer(self, answered_by: AnsweredBy) -> None:
        """Note which replica answers, for traces."""

    def note_failure(self, failure: FailedAttempt) -> None:
        """Note an attempt that ended before its first token, for traces."""

    def note_finish(self, reason: FinishReason) -> None:
        """Note how one choice ended, for traces."""

    def observe_tokens(self, index: int, count: int) -> None:
        """Time `count` new tokens of choice `index`."""
        now = time.monotonic()
        last = self._last_token_at.get(index)
        if last is not None:
            self._intervals.append((now - last) / count)
            if now - self._observed_at > _OBSERVATION_SECONDS:
                self._observe_intervals()
                self._observed_at = now
        elif not self._last_token_at:
            self._metrics.time_to_first_token.observe(now - self._started_at)
        self._last_token_at[index] = now

    def _observe_intervals(self) -> None:
        if self._intervals:
            self._metrics.inter_token.observe_all(self._intervals)
            self._intervals.clear()

    def observe_usage(self, usage: Usage) -> None:
        """Count the prompt tokens of an answered request."""
        self._metrics.prompt_tokens.inc(usage.prompt_tokens)
        if usage.cached_tokens:
            self._metrics.cached_tokens.inc(usage.cached_tokens)
        if usage.source != "engine":
            self._metrics.usage_sources[usage.source].inc()

    def end(self, result: RequestResult, generated_tokens: int = 0) -> None:
        """Count the request and the tokens that were generated for it."""
        self._observe_intervals()
        self._metrics.requests[result].inc()
        if result != "refused":
            self._metrics.duration.observe(time.monotonic() - self._started_at)
        if generated_tokens:
            self._metrics.completion_tokens.inc(generated_tokens)
