"""Events of a response that are watched on their way to the client."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

from dragoman.core.answered_by import AnsweredBy
from dragoman.core.events import Event
from dragoman.core.rate_limits import Allowances
from dragoman.core.services import EventStream


class WatchedEvents(ABC):
    """Implements core.services.EventStream over another one, but for the events themselves."""

    def __init__(self, events: EventStream) -> None:
        self._events = events

    @property
    def allowances(self) -> Allowances:
        return self._events.allowances

    @property
    def answered_by(self) -> AnsweredBy | None:
        return self._events.answered_by

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[Event]: ...

    async def aclose(self) -> None:
        await self._events.aclose()
