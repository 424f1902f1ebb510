"""The execution of one admitted request: its events, measured and settled however it ends."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from types import TracebackType
from typing import Self

from dragoman.core.answered_by import AnsweredBy, AttemptObserver, FailedAttempt
from dragoman.core.capabilities import Capability
from dragoman.core.errors import DragomanError, EngineFailed, ReplicaFailed
from dragoman.core.events import Delta, Event, Finished, ReasoningDelta, Started, ToolCallDelta, Unenforced, Usage
from dragoman.core.rate_limits import Allowances
from dragoman.core.request import GenerationRequest
from dragoman.core.tasks import Task
from dragoman.engines.base import Embeds, Engine
from dragoman.gateway.admission.reservation import EndReason, Reservation
from dragoman.gateway.execution.best_of import best_of
from dragoman.gateway.execution.deadlines import before_deadline
from dragoman.gateway.execution.fallback_execution import answer_or_fall_back
from dragoman.gateway.execution.fan_out import fan_out
from dragoman.gateway.execution.hedging import hedged
from dragoman.gateway.execution.metrics import RequestResult, RequestTimer
from dragoman.gateway.routing.attempts import Attempts, RoutedAttempts
from dragoman.gateway.routing.catalog import Deployment
from dragoman.gateway.routing.fallbacks import NO_FALLBACKS, Fallbacks
from dragoman.gateway.routing.replica import Replica

_OPENING_EVENTS = (Started, Unenforced)
"""Events that precede the answer's first token: they are held back until an attempt has more to send."""

_DELTAS = (Delta, ReasoningDelta, ToolCallDelta)


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
        # The adapters of other servers come and go.
        self._has_adapter = isinstance(request, GenerationRequest) and request.adapter is not None
        self._replicas: tuple[Replica, ...] = ()
        self._capabilities: list[frozenset[Capability]] = []
        self._able: list[Replica] = []

    def __call__(self) -> Sequence[Replica]:
        replicas = self._deployment.replicas
        capabilities = [engine.capabilities for engine in self._deployment.engines]
        if self._has_adapter or replicas is not self._replicas or capabilities != self._capabilities:
            self._replicas, self._capabilities = replicas, capabilities
            self._able = self._deployment.able_replicas(self._request)
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


class Answer:
    """An answer that has begun: `opening`, and then what is left of `events`.

    The end of its `async with` block ends the attempt that it belongs to, however it ends.
    """

    def __init__(self, events: AsyncGenerator[Event], attempts: Attempts | None = None) -> None:
        """`attempts` is whose attempt it is. None: the events are made of attempts of their own."""
        self.opening: list[Event] = []
        """What arrived up to the first token."""
        self.events = events
        self._attempts = attempts

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        attempts = self._attempts
        try:
            await self.events.aclose()
            if attempts is not None:
                if error is None:
                    attempts.succeed()
                elif isinstance(error, DragomanError):
                    attempts.fail(error)  # Raises what the client is to see.
        finally:
            if attempts is not None:
                attempts.end()

    async def abandon(self) -> None:
        """End the attempt without a result."""
        try:
            await self.events.aclose()
        finally:
            if self._attempts is not None:
                self._attempts.end()


Opening = Coroutine[None, None, Answer]
"""Returns an answer when it has begun. Raises core.errors."""


def ranks_candidates(request: Task) -> bool:
    """Whether more candidates are generated for a request than returned."""
    return isinstance(request, GenerationRequest) and request.best_of is not None and request.best_of != request.n


def open_answer(deployment: Deployment, requests: Sequence[Task], observer: AttemptObserver | None = None) -> Opening:
    """Have the requests answered as one, and return the answer when it has begun. Raises core.errors.

    `observer` is notified of each attempt if there were several replicas, or an upstream.
    """
    if len(requests) > 1:
        note_start = None if observer is None else observer.note_start
        return _begun(fan_out(requests, lambda request: generate(deployment, request, observer), note_start))
    [request] = requests
    attempts = attempts_of(deployment, request, observer)
    if isinstance(attempts, RoutedAttempts) and (hedge_after := attempts.hedge_after) is not None:
        return hedged(attempts, lambda each: _attempt(each, request), hedge_after)
    return _attempt(attempts, request)


async def _attempt(attempts: Attempts, request: Task) -> Answer:
    """Make attempts until one has its first token: after that, there is no other one."""
    while True:
        answer = Answer(_events(await attempts.begin(), request), attempts)
        has_begun = False
        try:
            async for event in answer.events:
                answer.opening.append(event)
                if type(event) not in _OPENING_EVENTS:
                    attempts.note_output()
                    break
            has_begun = True
            return answer
        except DragomanError as error:
            attempts.fail(error)
        finally:
            if not has_begun:
                await answer.abandon()


async def _begun(events: AsyncGenerator[Event]) -> Answer:
    """Return the answer when its first event has arrived."""
    answer = Answer(events)
    if (first := await anext(events, None)) is not None:
        answer.opening.append(first)
    return answer


async def _events_of(opening: Callable[[], Opening]) -> AsyncGenerator[Event]:
    async with await opening() as answer:
        for event in answer.opening:
            yield event
        async for event in answer.events:
            yield event


def generate(deployment: Deployment, request: Task, observer: AttemptObserver | None = None) -> AsyncGenerator[Event]:
    """Answer one request as `open_answer` does."""
    return _events_of(lambda: open_answer(deployment, (request,), observer))


def _events(engine: Engine, request: Task) -> AsyncGenerator[Event]:
    if isinstance(request, GenerationRequest):
        return engine.generate(request)
    assert isinstance(engine, Embeds), "the deployment's candidates compute embeddings"
    return engine.embed(request)


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
        self._events: AsyncGenerator[Event]
        if ranks_candidates(requests[0]):
            self._events = best_of(requests, lambda candidates: self._generate(deployment, candidates))
        else:
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
        if (settled := self._reservation.settle(reason)) is not None:
            self._timer.note_settlement(settled)
        self._timer.end(result, self.generated_tokens)

    def _observe(self, event: Event) -> None:
        """Count an event before it is delivered. Tokens are counted as they come: a request that fails used them."""
        if isinstance(event, _DELTAS):
            if count := len(event.token_ids) + event.unidentified_tokens:
                self.generated_tokens += count
                self._timer.observe_tokens(event.index, count)
                self._reservation.observe_tokens(self.generated_tokens)
        elif isinstance(event, Started):
            self.note_start(event)
        elif isinstance(event, Usage):
            self._timer.observe_usage(event)
            self._reservation.observe_usage(event)
            # Not later: a client that has read this answer may send its next request with the rest of the hold.
            if (settled := self._reservation.settle("finished")) is not None:
                self._timer.note_settlement(settled)
        elif isinstance(event, Finished):
            self._timer.note_finish(event.reason)

    def note_wait(self, began_at: float, ended_at: float) -> None:
        self._timer.note_wait(began_at, ended_at)

    def note_answer(self, answered_by: AnsweredBy) -> None:
        self._timer.note_answer(answered_by)
        if self.answered_by is None:  # Of several prompts, the first that is answered counts.
            self.answered_by = answered_by
        if answered_by.is_upstream:
            self._reservation.observe_upstream()
        self._reservation.observe_attempt(answered_by)

    def note_start(self, started: Started) -> None:
        self._reservation.observe_start(started.cached_tokens)

    def note_failure(self, failure: FailedAttempt) -> None:
        self._timer.note_failure(failure)
        self._reservation.observe_attempt(failure)

    def _open(self, deployment: Deployment, requests: Sequence[Task]) -> Opening:
        if self._fallbacks is NO_FALLBACKS:
            return open_answer(deployment, requests, self)
        return answer_or_fall_back(
            deployment,
            requests,
            open_answer=lambda chosen: open_answer(chosen, requests, self),
            fallbacks=self._fallbacks,
            reservation=self._reservation,
            observer=self,
        )

    def _open_in_time(self, deployment: Deployment, requests: Sequence[Task]) -> Opening:
        if self._deadline is None:
            return self._open(deployment, requests)
        return _begun(before_deadline(_events_of(lambda: self._open(deployment, requests)), self._deadline))

    async def _generate(self, deployment: Deployment, requests: Sequence[Task]) -> AsyncGenerator[Event]:
        self._started = True
        try:
            async with await self._open_in_time(deployment, requests) as answer:
                for event in answer.opening:
                    self._observe(event)
                    yield event
                async for event in answer.events:
                    self._observe(event)
                    yield event
        except (asyncio.CancelledError, GeneratorExit):
            self._end("disconnected", "cancelled")
            raise
        except Exception as error:
            is_refused = isinstance(error, DragomanError) and not isinstance(error, EngineFailed)
            self._end("failed", "refused" if is_refused else "failed")
            raise
        self._end("finished", "ok")
