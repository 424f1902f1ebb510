"""The event loop's access to the accounts' database for calls other than the ledger's: one at a time."""

import asyncio
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import structlog

from dragoman.accounts.database.connections import Database
from dragoman.core.errors import Overloaded

MAX_WAITING = 1_000

_log = structlog.get_logger(__name__)

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class DatabaseThread:
    """Runs blocking calls one after the other, from the first call until `close`."""

    def __init__(self, database: Database, *, max_waiting: int = MAX_WAITING) -> None:
        """Up to `max_waiting` calls may wait or run; further ones are refused."""
        self.database = database
        self._capacity = threading.BoundedSemaphore(max_waiting)
        self._executor = ThreadPoolExecutor(1, "accounts")

    async def run(
        self, call: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        """Run the call and return its result. Raises Overloaded if the database does not answer or too many calls wait.

        A call that has begun is completed even if its caller is cancelled.
        """
        if not self._capacity.acquire(blocking=False):
            raise Overloaded("Too many requests are waiting for the accounts' database", retry_after=1)
        future = self._executor.submit(functools.partial(call, *args, **kwargs))
        future.add_done_callback(lambda _: self._capacity.release())
        try:
            return await asyncio.wrap_future(future)
        except self.database.transient_errors as error:
            _log.warning("database_failed", error=str(error))
            raise Overloaded("The accounts' database does not answer", retry_after=5) from error

    def close(self) -> None:
        """Wait for the submitted calls, and end the thread."""
        self._executor.shutdown()
