"""The event loop's access to the accounts' database for calls other than the ledger's: one at a time."""

import asyncio
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.failures import DatabaseUnavailable, find_outage
from dragoman.core.errors import LedgerUnavailable, Overloaded

MAX_WAITING = 1_000
TIMEOUT_SECONDS = 5.0

_SLOW_FACTOR = 6
"""How much more time a call has that may read much."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class DatabaseThread:
    """Runs blocking calls one after the other, from the first call until `close`."""

    def __init__(
        self, database: Database, *, max_waiting: int = MAX_WAITING, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        """Up to `max_waiting` calls may wait or run, each for `timeout_seconds`; further ones are refused."""
        self.database = database
        self._timeout_seconds = timeout_seconds
        self._capacity = threading.BoundedSemaphore(max_waiting)
        self._executor = ThreadPoolExecutor(1, "accounts")

    async def run(
        self, call: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        """Run the call and return its result. Raises Overloaded if the database does not answer or too many calls wait.

        A call that has begun is completed even if its caller is cancelled or gets no answer in time.
        """
        return await self._run(self._timeout_seconds, functools.partial(call, *args, **kwargs))

    async def run_slow(
        self, call: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        """Run a call that may read much, with more time than others."""
        return await self._run(self._timeout_seconds * _SLOW_FACTOR, functools.partial(call, *args, **kwargs))

    async def _run(self, timeout_seconds: float, call: Callable[[], Result]) -> Result:
        if not self._capacity.acquire(blocking=False):
            raise Overloaded("Too many requests are waiting for the accounts' database", retry_after=1)
        future = self._executor.submit(call)
        future.add_done_callback(lambda _: self._capacity.release())
        outage = self.database.outage
        try:
            async with asyncio.timeout(timeout_seconds) as deadline:
                result = await asyncio.wrap_future(future)
        except Exception as error:
            found = DatabaseUnavailable("it does not answer") if deadline.expired() else find_outage(error)
            if found is None:
                raise
            outage.fail(found)
            raise LedgerUnavailable("The accounts' database does not answer", retry_after=5) from error
        if outage.is_active:
            outage.succeed()
        return result

    def close(self) -> None:
        """Wait for the submitted calls, and end the thread."""
        self._executor.shutdown()
