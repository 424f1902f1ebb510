"""Reading answers while they come, wherever they are generated: stored events first, then those that are stored later.

Nothing is told that is not stored. What this process stores it hands on; for jobs that run elsewhere one look into the
database asks about all of them at once.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence

from dragoman.accounts.database_thread import DatabaseThread
from dragoman.core.allowance import NO_LIMITS, Allowances
from dragoman.core.errors import JobCancelled, JobNotFound, Overloaded, ShuttingDown
from dragoman.core.events import Event
from dragoman.core.jobs import JobState
from dragoman.jobs.errors import unpack_error
from dragoman.jobs.options import FOLLOW_SECONDS
from dragoman.jobs.reading import JobFacts, JobReader, Stored
from dragoman.jobs.store import JobStore

_RETRY_AFTER_SECONDS = 5

_AT_ONCE = 32
"""Readers that ask the database at the same time: others want to ask it too."""


class _Topic:
    """One job that somebody follows."""

    def __init__(self) -> None:
        self.followers = 0
        self.latest: Stored | None = None
        """What this process stored last, if it runs the job."""
        self.seen: tuple[JobState, int] | None = None
        """What the last look into the database told of it."""
        self.changed = asyncio.Event()
        """Set at the next change; it is another one then."""

    def following(self, told: int) -> list[Stored]:
        """The events after the first `told` ones, if they are at hand."""
        latest = self.latest
        return [latest] if latest is not None and latest.first <= told < latest.first + len(latest.events) else []

    def change(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class Board:
    """The jobs that are followed in this process, and where their news is put up."""

    def __init__(self, reading: DatabaseThread, reader: JobReader, writing: DatabaseThread, store: JobStore) -> None:
        self.closing = False
        self._reading = reading
        self._reader = reader
        self._writing = writing
        self._store = store
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._topics: dict[int, _Topic] = {}
        self._wanted = asyncio.Event()

    def stored(self, number: int, first: int, events: Sequence[Event]) -> None:
        """These events of the job are stored now, the first of them with the number `first`."""
        topic = self._topics.get(number)
        if topic is not None:
            topic.latest = Stored(first, list(events))
            topic.change()

    def changed(self, numbers: Iterable[int]) -> None:
        """Something else about the jobs is different now."""
        for number in numbers:
            topic = self._topics.get(number)
            if topic is not None:
                topic.latest = None
                topic.change()

    def close(self) -> None:
        """End all that follow jobs that have not ended: others will go on with these."""
        self.closing = True
        self.changed(list(self._topics))

    async def watch(self, is_here: Callable[[int], bool]) -> None:
        """For ever, look for news of jobs that are followed and not running here."""
        while True:
            await self._wanted.wait()
            elsewhere = [number for number in self._topics if not is_here(number)]
            if elsewhere:
                with contextlib.suppress(Overloaded):
                    self._compare(elsewhere, await self._reading.run(self._reader.states, elsewhere))
            await asyncio.sleep(FOLLOW_SECONDS)

    def follow(self, facts: JobFacts) -> "Following":
        """The events of a job."""
        return Following(self._events(facts.id, facts.number))

    def _compare(self, numbers: Iterable[int], found: dict[int, tuple[JobState, int]]) -> None:
        for number in numbers:
            topic = self._topics.get(number)
            if topic is not None and topic.seen != found.get(number):
                topic.seen = found.get(number)
                topic.latest = None
                topic.change()

    @contextlib.contextmanager
    def _topic(self, number: int) -> Iterator[_Topic]:
        topic = self._topics.setdefault(number, _Topic())
        topic.followers += 1
        self._wanted.set()
        try:
            yield topic
        finally:
            topic.followers -= 1
            if not topic.followers:
                del self._topics[number]
                if not self._topics:
                    self._wanted.clear()

    async def _events(self, job_id: str, number: int) -> AsyncGenerator[Event]:
        told = 0
        delivered = False
        with self._topic(number) as topic:
            while True:
                changed, batches = topic.changed, topic.following(told) if delivered else []
                if not batches:
                    facts = await self._facts(job_id)
                    if facts.events <= told and _has_ended(facts):
                        return
                    if facts.events <= told:
                        await self._wait(changed)
                        continue
                    delivered = delivered or await self._deliver(facts)
                    batches = await self._stored(number, told) if delivered else []
                for batch in batches:
                    for event in batch.events[told - batch.first :]:
                        told += 1
                        yield event

    async def _facts(self, job_id: str) -> JobFacts:
        async with self._turns:
            facts = await self._reading.run(self._reader.find, job_id)
        if facts is None:
            raise JobNotFound(job_id)
        return facts

    async def _stored(self, number: int, told: int) -> list[Stored]:
        async with self._turns:
            return await self._reading.run(self._reader.events, number, told)

    async def _deliver(self, facts: JobFacts) -> bool:
        """Whether the events may be told. Whoever runs the job must not begin anew once somebody has read from it."""
        if facts.state not in ("queued", "running"):
            return True
        async with self._turns:
            return await self._writing.run(self._store.deliver, facts.number)

    async def _wait(self, changed: asyncio.Event) -> None:
        if self.closing:
            raise ShuttingDown("The server is shutting down", _RETRY_AFTER_SECONDS)
        await changed.wait()


class Following:
    """Implements core.service.Answering."""

    def __init__(self, events: AsyncGenerator[Event]) -> None:
        self._events = events

    @property
    def allowances(self) -> Allowances:
        return NO_LIMITS

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._events

    async def aclose(self) -> None:
        await self._events.aclose()


def _has_ended(facts: JobFacts) -> bool:
    """Raises what the job ended with, unless it is finished."""
    if facts.state == "cancelled":
        raise JobCancelled(facts.id)
    if facts.state == "failed":
        assert facts.error is not None, "stored with the state"
        raise unpack_error(facts.error)
    return facts.state == "finished"
