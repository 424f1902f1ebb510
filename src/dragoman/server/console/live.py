"""Live data: one task per worker reads what is new once a second, for all open pages together."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import msgspec
from prometheus_client import CollectorRegistry
from sqlalchemy import select

from dragoman.accounts.administration.usage import UsageRecord
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import usage
from dragoman.core.errors import Overloaded
from dragoman.server.console.gauges import Gauges, GaugeSampler
from dragoman.server.console.names import NO_NAMES, Names, read_names
from dragoman.server.console.rendering import Renderer
from dragoman.server.console.services import ConsoleServices
from dragoman.server.console.viewers import ConsoleViewer

TICK_SECONDS = 1.0
MAX_SUBSCRIBERS = 128
"""Open pages with live data, of one worker."""

_MAX_HOLDERS = 96
"""Of them, those of holders of API keys together: operators need the rest."""

_MAX_OF_HOLDER = 16

_MAX_ROWS = 50
"""New requests of one second. When there are more, the page says that some are missing."""

_OVERLAP = 64
"""Ids behind the newest that are read again: PostgreSQL's transactions may commit in another order than their ids."""

_CHECKED_TICKS = 5
"""Ticks after which the session is looked up again."""

_QUEUED_TICKS = 4
"""Ticks that a slow page may be behind, before it loses the oldest."""


class Tick(msgspec.Struct, frozen=True):
    """What one second brought."""

    gauges: Gauges
    rows: Sequence[UsageRecord]
    names: Names
    """Of the accounts and keys of the rows."""
    newest: int
    """The id of the newest request."""
    is_cut: bool
    """Whether there were more rows."""


class Broadcast:
    """Reads for as long as a page listens."""

    def __init__(self, services: ConsoleServices, renderer: Renderer, is_draining: Callable[[], bool]) -> None:
        self._services = services
        self._renderer = renderer
        self._is_draining = is_draining
        self._sampler = GaugeSampler(services)
        self._queues: dict[asyncio.Queue[Tick], ConsoleViewer] = {}
        self._task: asyncio.Task[None] | None = None
        self._newest: int | None = None
        self._seen: deque[int] = deque(maxlen=2 * _OVERLAP + _MAX_ROWS)

    def is_full(self, viewer: ConsoleViewer) -> bool:
        """Whether this viewer may open no further page."""
        if viewer.is_operator:
            return len(self._queues) >= MAX_SUBSCRIBERS
        holders = [each for each in self._queues.values() if not each.is_operator]
        own = [each for each in holders if _holder(each) == _holder(viewer)]
        return len(own) >= _MAX_OF_HOLDER or len(holders) >= _MAX_HOLDERS

    async def gauges(self) -> Gauges:
        """Return the state of the server now."""
        return await self._sampler.sample()

    async def counts(self) -> CollectorRegistry:
        """Return the counts of all workers since the server's start."""
        return await asyncio.to_thread(self._sampler.counts)

    async def events(
        self, viewer: ConsoleViewer, last_id: int | None, is_valid: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[bytes]:
        """Yield server-sent events until the page is closed, the server stops or the session ends.

        `last_id` is the newest request that the page has already.
        """
        queue: asyncio.Queue[Tick] = asyncio.Queue(_QUEUED_TICKS)
        self._queues[queue] = viewer
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        try:
            yield b"retry: 2000\n\n"
            # Requests that both the first tick and the page have are dropped by the page.
            first = await queue.get()
            missed = [] if last_id is None else await self._read_rows(last_id, viewer.account_id)
            is_cut = len(missed) == _MAX_ROWS
            yield self._frame(viewer, await self._tick_of(first.gauges, missed, first.newest, is_cut=is_cut))
            ticks = 0
            while not self._is_draining():
                yield self._frame(viewer, await queue.get())
                ticks += 1
                if ticks % _CHECKED_TICKS == 0 and not await is_valid():
                    return
        finally:
            self._queues.pop(queue, None)
            if not self._queues and self._task is not None:
                self._task.cancel()
                self._task = self._newest = None

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(Overloaded):
                tick = await self._tick()
                for queue in self._queues:
                    if queue.full():
                        queue.get_nowait()
                    queue.put_nowait(tick)
            await asyncio.sleep(TICK_SECONDS)

    async def _tick(self) -> Tick:
        # The first time too: rows of the overlap are not new then.
        found = await self._read_rows(0 if self._newest is None else self._newest - _OVERLAP)
        rows = [row for row in found if row.id not in self._seen]
        is_first = self._newest is None
        is_cut = self._newest is not None and len(found) == _MAX_ROWS and found[0].id > self._newest + 1
        self._seen.extend(row.id for row in rows)
        self._newest = max([self._newest or 0, *(row.id for row in found)])
        return await self._tick_of(await self.gauges(), [] if is_first else rows, self._newest, is_cut=is_cut)

    async def _tick_of(self, gauges: Gauges, rows: Sequence[UsageRecord], newest: int, *, is_cut: bool) -> Tick:
        thread = self._services.thread
        names = NO_NAMES
        if rows and thread is not None:
            names = await thread.run(read_names, thread.database, rows)
        return Tick(gauges, rows, names, newest, is_cut)

    async def _read_rows(self, after: int, account_id: int | None = None) -> list[UsageRecord]:
        thread = self._services.thread
        return [] if thread is None else await thread.run(newest_requests, thread.database, after, account_id)

    def _frame(self, viewer: ConsoleViewer, tick: Tick) -> bytes:
        rows = [row for row in tick.rows if viewer.is_operator or _is_own(viewer, row)]
        template = "parts/request_row.html"
        values = {"names": tick.names, "viewer": viewer, "fresh": True}
        body = {
            "rows": [self._renderer.text(template, row=row, **values) for row in rows],
            "gauges": tick.gauges if viewer.is_operator else None,
            "is_cut": tick.is_cut and viewer.sees_usage,
        }
        return b"id: %d\nevent: tick\ndata: %s\n\n" % (tick.newest, msgspec.json.encode(body))


def newest_requests(database: Database, after: int, account_id: int | None = None) -> list[UsageRecord]:
    """Return the newest requests behind the id `after`, oldest first; of this account if one is given."""
    query = select(usage).where(usage.c.id > after).order_by(usage.c.id.desc()).limit(_MAX_ROWS)
    if account_id is not None:
        query = query.where(usage.c.account_id == account_id)
    with database.read() as connection:
        rows = connection.execute(query).all()
    return [msgspec.convert(row, UsageRecord, from_attributes=True) for row in reversed(rows)]


def _is_own(viewer: ConsoleViewer, row: UsageRecord) -> bool:
    return viewer.account_id is not None and row.account_id == viewer.account_id


def _holder(viewer: ConsoleViewer) -> int | str:
    """Return the account, or without accounts the key's name."""
    return viewer.name if viewer.account_id is None else viewer.account_id
