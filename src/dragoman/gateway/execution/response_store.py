"""Stored responses of the Responses API, in the accounts' database."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.responses import ResponseTable
from dragoman.accounts.database.thread import DatabaseThread
from dragoman.core.background_tasks import repeat
from dragoman.core.responses import ResponseHistory, ResponseRecord

SWEEP_INTERVAL_SECONDS = 60.0

_MAX_SWEEPS = 100
"""Transactions per sweep. Other writers get their turn in between."""

DEFAULT_RETENTION_DAYS = 30.0
DEFAULT_MAX_BYTES = 1024 * 1024 * 1024


class DatabaseResponseStore:
    """Implements core.responses.ResponseStore, within `opened`."""

    def __init__(
        self,
        database: Database,
        *,
        retention_days: float = DEFAULT_RETENTION_DAYS,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        """Responses are kept for `retention_days`, and `max_bytes` of them together."""
        self._thread = DatabaseThread(database)
        self._table = ResponseTable(database, retention_days=retention_days, max_bytes=max_bytes)

    async def store(self, record: ResponseRecord, owner: str) -> None:
        await self._thread.run(self._table.store, record, owner)

    async def find(self, response_id: str, owner: str) -> ResponseRecord | None:
        return await self._thread.run(self._table.find, response_id, owner)

    async def history(self, response_id: str, owner: str) -> ResponseHistory:
        return await self._thread.run(self._table.history, response_id, owner)

    async def delete(self, response_id: str, owner: str) -> bool:
        return await self._thread.run(self._table.delete, response_id, owner)

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(repeat("sweep of stored responses", self._sweep, SWEEP_INTERVAL_SECONDS))
        try:
            yield
        finally:
            sweeper.cancel()
            await asyncio.wait([sweeper])
            await asyncio.to_thread(self._thread.close)

    async def _sweep(self) -> None:
        for _ in range(_MAX_SWEEPS):
            if not await self._thread.run(self._table.sweep):
                break
