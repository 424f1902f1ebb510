"""The execution of one admitted request: its events, measured and settled however it ends."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from dragoman.core.errors import DragomanError, EngineFailed
from dragoman.core.events import Event, Finished, Usage
from dragoman.core.rate_limits import Allowances
from dragoman.core.request import GenerationRequest
from dragoman.engines.base import Engine
from dragoman.gateway.admission.reservation import EndReason, Reservation
from dragoman.gateway.execution.best_of import BestOfSelector, candidates_request
from dragoman.gateway.execution.fan_out import fan_out
from dragoman.gateway.execution.metrics import RequestResult, RequestTimer


class RequestExecution:
    """Implements core.services.EventStream and jobs.worker.executor.JobExecution."""

    def __init__(
        self, engine: Engine, requests: Sequence[GenerationRequest], reservation: Reservation, timer: RequestTimer
    ) -> None:
        self.generated_tokens = 0
        """Of all choices and candidates so far."""
        self._reservation = reservation
        self._timer = timer
        self._started = False
        self._events = self._generate(engine, requests)

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
        match event:
            case Usage():
                self._timer.observe_usage(event)
                self._reservation.observe_usage(event)
                # Not later: a client that has read this answer may send its next request with the rest of the hold.
                self._reservation.settle("finished")
            case Finished():
                pass
            case _ if event.token_ids:
                self.generated_tokens += len(event.token_ids)
                self._timer.observe_tokens(event.index, len(event.token_ids))
                self._reservation.observe_tokens(self.generated_tokens)

    async def _generate(self, engine: Engine, requests: Sequence[GenerationRequest]) -> AsyncGenerator[Event]:
        self._started = True
        selector = BestOfSelector.for_requests(requests)
        candidates = requests if selector is None else [candidates_request(request) for request in requests]
        try:
            async with contextlib.aclosing(fan_out(engine, candidates)) as events:
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
