"""The execution of one admitted request: its events, measured and settled however it ends.

Several prompts run side by side as one request. With best_of, more candidates are generated than returned.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from typing import get_args

import msgspec

from dragoman.core.answered_by import AnsweredBy, AttemptObserver, FailedAttempt
from dragoman.core.capabilities import Capability
from dragoman.core.errors import DragomanError, EngineFailed, ReplicaFailed
from dragoman.core.events import (
    AnyDelta,
    ChoiceEvent,
    Delta,
    Embedding,
    Event,
    Finished,
    Started,
    Unenforced,
    Usage,
    UsageSource,
)
from dragoman.core.rate_limits import Allowances
from dragoman.core.request import GenerationRequest
from dragoman.core.tasks import Task
from dragoman.engines.base import Embeds, Engine
from dragoman.gateway.admission.reservation import EndReason, Reservation
from dragoman.gateway.execution.deadlines import before_deadline
from dragoman.gateway.execution.fallback_execution import answer_or_fall_back
from dragoman.gateway.execution.hedging import hedged
from dragoman.gateway.execution.metrics import RequestResult, RequestTimer
from dragoman.gateway.routing.attempts import Attempts, RoutedAttempts
from dragoman.gateway.routing.catalog import Deployment
from dragoman.gateway.routing.fallbacks import NO_FALLBACKS, Fallbacks
from dragoman.gateway.routing.replica import Replica

_OPENING_EVENTS = (Started, Unenforced)
"""Events that precede the answer's first token: they are held back until an attempt has more to send."""

_LEAST_EXACT_LAST = get_args(UsageSource)

_MAX_BUFFERED_EVENTS = 64
"""Events of several prompts that are buffered between the engines and a slow client."""


class DirectAttempts:
    """Implements Attempts on the only engine of a deployment: a lost request is sent to it again at once."""

    def __init__(self, engine: Engine, max_attempts: int) -> None:
        self._engine = engine
        self._attempts_left = max_attempts

    async def begin(self) -> Engine:
        self._attempts_left -= 1
        return self._engine

    def note_output(self) -> None:
        self._attempts_left = 0

    def succeed(self) -> None: ...

    def fail(self, error: DragomanError) -> None:
        if not self._attempts_left or not isinstance(error, ReplicaFailed):
            raise error

    def end(self) -> None: ...


class _AbleReplicas:
    """Returns the replicas that can answer one request. It is asked several times for an attempt."""

    def __init__(self, deployment: Deployment, request: Task) -> None:
        self._deployment = deployment
        self._request = request
        self._seen: list[tuple[Engine, frozenset[Capability]]] = []
        self._able: list[Replica] = []

    def __call__(self) -> Sequence[Replica]:
        seen = [(engine, engine.capabilities) for engine in self._deployment.engines]
        # The adapters of other servers come and go.
        if seen != self._seen or (isinstance(self._request, GenerationRequest) and self._request.adapter is not None):
            self._seen, self._able = seen, self._deployment.able_replicas(self._request)
        return self._able


def attempts_of(deployment: Deployment, request: Task, observer: AttemptObserver | None = None) -> Attempts:
    """Return the attempts to have a request answered. Raises BadRequest naming what no replica can do."""
    if deployment.router is None:
        return DirectAttempts(deployment.candidates(request)[0].engine, deployment.max_attempts)
    able = _AbleReplicas(deployment, request)
    if not able():
        deployment.candidates(request)  # Raises.
    return RoutedAttempts(
        deployment.name, deployment.router, request, able=able, max_attempts=deployment.max_attempts, observer=observer
    )


def generate(deployment: Deployment, request: Task, observer: AttemptObserver | None = None) -> AsyncGenerator[Event]:
    """Answer one request by the first attempt that begins to: after its first event, there is no other one.

    `observer` is told of it if there were several replicas, or an upstream. Raises core.errors.
    """
    attempts = attempts_of(deployment, request, observer)
    if isinstance(attempts, RoutedAttempts) and (hedge_after := attempts.hedge_after) is not None:
        return hedged(attempts, lambda each: _answer(each, request), hedge_after)
    return _answer(attempts, request)


async def _answer(attempts: Attempts, request: Task) -> AsyncGenerator[Event]:
    while True:
        engine = await attempts.begin()
        opening: list[Event] = []
        has_output = False
        try:
            async with contextlib.aclosing(_events(engine, request)) as events:
                async for event in events:
                    if not has_output:
                        if type(event) in _OPENING_EVENTS:
                            opening.append(event)
                            continue
                        has_output = True
                        attempts.note_output()
                        for each in opening:
                            yield each
                    yield event
            attempts.succeed()
            return
        except DragomanError as error:
            attempts.fail(error)
        finally:
            attempts.end()


def _events(engine: Engine, request: Task) -> AsyncGenerator[Event]:
    if isinstance(request, GenerationRequest):
        return engine.generate(request)
    assert isinstance(engine, Embeds), "the deployment's candidates compute embeddings"
    return engine.embed(request)


def fan_out(
    deployment: Deployment, requests: Sequence[Task], observer: AttemptObserver | None = None
) -> AsyncGenerator[Event]:
    """Merge the events of all requests into those of one: choices renumbered, usages added."""
    if len(requests) == 1:
        return generate(deployment, requests[0], observer)
    return _fan_out_concurrently(deployment, requests, observer)


async def _fan_out_concurrently(
    deployment: Deployment, requests: Sequence[Task], observer: AttemptObserver | None
) -> AsyncGenerator[Event]:
    queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue(_MAX_BUFFERED_EVENTS)
    usages: list[Usage] = []
    running = len(requests)

    async def pump(first_index: int, request: Task) -> None:
        try:
            async with contextlib.aclosing(generate(deployment, request, observer)) as events:
                async for event in events:
                    await queue.put(_with_index_offset(event, first_index))
            await queue.put(None)
        except Exception as error:  # noqa: BLE001 - raised again below, in the task of the request
            await queue.put(error)

    tasks = [asyncio.create_task(pump(number * _choices(request), request)) for number, request in enumerate(requests)]
    try:
        while running:
            match await queue.get():
                case None:
                    running -= 1
                case Exception() as error:
                    raise error
                case Usage() as usage:
                    usages.append(usage)
                case Started():
                    pass  # The prompts begin at different times.
                case event:
                    yield event
        if len(usages) == len(requests):
            yield Usage(
                sum(usage.prompt_tokens for usage in usages),
                sum(usage.completion_tokens for usage in usages),
                sum(usage.cached_tokens for usage in usages),
                sum(usage.reasoning_tokens for usage in usages),
                max((usage.source for usage in usages), key=_LEAST_EXACT_LAST.index),
            )
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _choices(request: Task) -> int:
    return request.n if isinstance(request, GenerationRequest) else len(request.inputs)


def _with_index_offset(event: Event, first_index: int) -> Event:
    if isinstance(event, Started | Usage):
        return event
    return msgspec.structs.replace(event, index=first_index + event.index)


def candidates_request(request: GenerationRequest) -> GenerationRequest:
    """Build the request that generates all candidates, with the log-probabilities that they are ranked by."""
    return msgspec.structs.replace(
        request, n=request.best_of or request.n, best_of=None, logprobs=request.logprobs or 0
    )


class BestOfSelector:
    """Buffers the candidates of a request until its end, and then returns the best of each prompt."""

    def __init__(self, n: int, best_of: int, *, include_logprobs: bool) -> None:
        """Of `best_of` candidates per prompt, `n` are returned, with log-probabilities if they were requested."""
        self._n = n
        self._best_of = best_of
        self._include_logprobs = include_logprobs
        self._events: dict[int, list[ChoiceEvent]] = {}

    @classmethod
    def for_requests(cls, requests: Sequence[Task]) -> "BestOfSelector | None":
        """Build the selector for requests that differ in their prompts only; None: every candidate is returned."""
        first_request = requests[0]
        if not isinstance(first_request, GenerationRequest):
            return None
        if first_request.best_of is None or first_request.best_of == first_request.n:
            return None
        return cls(first_request.n, first_request.best_of, include_logprobs=first_request.logprobs is not None)

    def feed(self, event: Event) -> Iterator[Event]:
        """Return the events to deliver: none of a choice until the usage, which counts all candidates."""
        if isinstance(event, Started | Embedding):
            yield event
            return
        if not isinstance(event, Usage):
            self._events.setdefault(event.index, []).append(event)
            return
        for first in range(0, len(self._events), self._best_of):
            candidates = range(first, first + self._best_of)
            ranked = sorted(candidates, key=lambda index: -_mean_logprob(self._events[index]))
            for rank, index in enumerate(ranked[: self._n]):
                yield from self._reindexed(index, first // self._best_of * self._n + rank)
        yield event

    def _reindexed(self, index: int, new_index: int) -> Iterator[Event]:
        for event in self._events[index]:
            item = msgspec.structs.replace(event, index=new_index)
            if isinstance(item, Delta) and not self._include_logprobs:
                item = msgspec.structs.replace(item, logprobs=[])
            yield item


def _mean_logprob(events: Sequence[ChoiceEvent]) -> float:
    """Return the mean of the tokens returned. An empty candidate ranks last."""
    # Deltas without sampled tokens repeat the prompt, which does not count for the candidate.
    deltas = [event for event in events if isinstance(event, Delta) and event.tokens]
    logprobs = [item.logprob for delta in deltas for item in delta.logprobs if item.logprob is not None]
    return math.fsum(logprobs) / len(logprobs) if logprobs else -math.inf


class RequestExecution:
    """Implements core.services.EventStream, core.answered_by.AttemptObserver and jobs.worker.executor.JobExecution."""

    def __init__(
        self,
        deployment: Deployment,
        requests: Sequence[Task],
        reservation: Reservation,
        timer: RequestTimer,
        *,
        fallbacks: Fallbacks = NO_FALLBACKS,
        deadline: float | None = None,
    ) -> None:
        """`deadline`: when the answer must be complete, in seconds of time.monotonic; None: any time."""
        self.generated_tokens = 0
        """Of all choices and candidates so far."""
        self.answered_by: AnsweredBy | None = None
        self._fallbacks = fallbacks
        self._deadline = deadline
        self._reservation = reservation
        self._timer = timer
        self._started = False
        self._events = self._generate(deployment, requests)

    @property
    def allowances(self) -> Allowances:
        return self._reservation.allowances

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._events

    async def aclose(self) -> None:
        await self._events.aclose()
        if not self._started:  # A generator that has not started is closed without running its last lines.
            self._end("disconnected", "cancelled")

    def _end(self, reason: EndReason, result: RequestResult) -> None:
        self._reservation.settle(reason)
        self._timer.end(result, self.generated_tokens)

    def _observe(self, event: Event) -> None:
        """Count an event before it is delivered. Tokens are counted as they come: a request that fails used them."""
        if isinstance(event, AnyDelta):
            if count := len(event.token_ids) + event.unidentified_tokens:
                self.generated_tokens += count
                self._timer.observe_tokens(event.index, count)
                self._reservation.observe_tokens(self.generated_tokens)
        elif isinstance(event, Usage):
            self._timer.observe_usage(event)
            self._reservation.observe_usage(event)
            # Not later: a client that has read this answer may send its next request with the rest of the hold.
            self._reservation.settle("finished")
        elif isinstance(event, Finished):
            self._timer.note_finish(event.reason)

    def note_answer(self, answered_by: AnsweredBy) -> None:
        self._timer.note_answer(answered_by)
        if self.answered_by is None:  # Of several prompts, the first that is answered counts.
            self.answered_by = answered_by
        if answered_by.is_upstream:
            self._reservation.observe_upstream()
        self._reservation.observe_attempt(answered_by)

    def note_failure(self, failure: FailedAttempt) -> None:
        self._timer.note_failure(failure)
        self._reservation.observe_attempt(failure)

    def _answer(self, deployment: Deployment, requests: Sequence[Task]) -> AsyncGenerator[Event]:
        events = self._answer_or_fall_back(deployment, requests)
        return events if self._deadline is None else before_deadline(events, self._deadline)

    def _answer_or_fall_back(self, deployment: Deployment, requests: Sequence[Task]) -> AsyncGenerator[Event]:
        if self._fallbacks is NO_FALLBACKS:
            return fan_out(deployment, requests, self)
        return answer_or_fall_back(
            deployment,
            requests,
            answer=lambda chosen: fan_out(chosen, requests, self),
            fallbacks=self._fallbacks,
            reservation=self._reservation,
            observer=self,
        )

    async def _generate(self, deployment: Deployment, requests: Sequence[Task]) -> AsyncGenerator[Event]:
        self._started = True
        selector = BestOfSelector.for_requests(requests)
        if selector is not None:
            requests = [candidates_request(request) for request in requests if isinstance(request, GenerationRequest)]
        try:
            async with contextlib.aclosing(self._answer(deployment, requests)) as events:
                async for event in events:
                    self._observe(event)
                    if selector is None:
                        yield event
                        continue
                    for chosen in selector.feed(event):
                        yield chosen
        except (asyncio.CancelledError, GeneratorExit):
            self._end("disconnected", "cancelled")
            raise
        except Exception as error:
            is_refused = isinstance(error, DragomanError) and not isinstance(error, EngineFailed)
            self._end("failed", "refused" if is_refused else "failed")
            raise
        self._end("finished", "ok")
