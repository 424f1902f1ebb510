"""One admitted request: its events, and the end that it has in any case."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from dragoman.core.allowance import Allowances
from dragoman.core.errors import DragomanError, EngineFailed
from dragoman.core.events import Event, Usage
from dragoman.core.request import GenerationRequest
from dragoman.engines.base import Engine
from dragoman.gateway.access import Bill, Ending
from dragoman.gateway.best_of import Contest, as_candidates
from dragoman.gateway.meter import Measurement
from dragoman.gateway.meter import Result as RequestResult
from dragoman.gateway.prompts import run


class RunningRequest:
    """Implements core.service.Answering: measured and paid, however it ends."""

    def __init__(
        self, engine: Engine, requests: Sequence[GenerationRequest], bill: Bill, measurement: Measurement
    ) -> None:
        self._bill = bill
        self._measurement = measurement
        self._begun = False
        self._events = self._answer(engine, requests)

    @property
    def allowances(self) -> Allowances:
        return self._bill.allowances

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._events

    async def aclose(self) -> None:
        await self._events.aclose()
        if not self._begun:  # What has not begun is closed without running its last lines.
            self._end("disconnected", "cancelled")

    def _end(self, ending: Ending, result: RequestResult) -> None:
        self._bill.settle(ending)
        self._measurement.end(result)

    async def _answer(self, engine: Engine, requests: Sequence[GenerationRequest]) -> AsyncGenerator[Event]:
        self._begun = True
        contest = Contest.over(requests)
        candidates = requests if contest is None else [as_candidates(request) for request in requests]
        try:
            async with contextlib.aclosing(run(engine, candidates)) as events:
                async for event in events:
                    self._measurement.observe(event)
                    self._bill.observe(event)
                    if isinstance(event, Usage):
                        # Not later: whoever has read this answer may ask for the next with what is left of the hold.
                        self._bill.settle("finished")
                    if contest is None:
                        yield event
                        continue
                    for chosen in contest.feed(event):
                        yield chosen
        except (asyncio.CancelledError, GeneratorExit):
            self._end("disconnected", "cancelled")
            raise
        except Exception as error:
            refused = isinstance(error, DragomanError) and not isinstance(error, EngineFailed)
            self._end("failed", "refused" if refused else "failed")
            raise
        self._end("finished", "ok")
