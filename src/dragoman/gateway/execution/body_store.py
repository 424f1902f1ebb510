"""Bodies of requests and answers, kept in the accounts' database by a task of the worker."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.request_bodies import RequestBodyTable
from dragoman.accounts.database.thread import DatabaseThread
from dragoman.core import logs
from dragoman.core.background_tasks import repeat
from dragoman.core.bodies import BodyRules, KeptBody
from dragoman.core.errors import Overloaded

SWEEP_INTERVAL_SECONDS = 60.0

_PAUSE_SECONDS = 0.2
"""In which bodies gather for one transaction."""

_MAX_WAITING = 256
"""Bodies that wait to be stored; further ones are not kept."""

_MAX_SWEEPS = 100
"""Transactions per sweep. Other writers get their turn in between."""

_log = logs.get_logger(__name__)


class DatabaseBodyStore:
    """Implements core.bodies.BodyStore, within `opened`."""

    def __init__(self, database: Database, rules: BodyRules) -> None:
        self.is_keeping = rules.days > 0
        """Whether anything is kept. What was kept before is deleted otherwise."""
        self._thread = DatabaseThread(database)
        self._table = RequestBodyTable(database, rules)
        self._waiting: list[KeptBody] = []

    def keep(self, body: KeptBody) -> None:
        if len(self._waiting) < _MAX_WAITING:
            self._waiting.append(body)
        else:
            _log.warning("request_body_not_kept", request_id=body.request_id, reason="too many wait")

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._sweep_once())]
        if self.is_keeping:
            tasks.append(asyncio.create_task(repeat("sweep of kept bodies", self._sweep, SWEEP_INTERVAL_SECONDS)))
            tasks.append(asyncio.create_task(repeat("keeping of bodies", self._store, _PAUSE_SECONDS)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            with contextlib.suppress(Overloaded):
                await self._store()
            await asyncio.to_thread(self._thread.close)

    async def _store(self) -> None:
        if self._waiting:
            bodies, self._waiting = self._waiting, []
            await self._thread.run(self._table.keep, bodies)

    async def _sweep_once(self) -> None:
        with contextlib.suppress(Overloaded):
            await self._sweep()

    async def _sweep(self) -> None:
        for _ in range(_MAX_SWEEPS):
            if not await self._thread.run(self._table.sweep):
                break
