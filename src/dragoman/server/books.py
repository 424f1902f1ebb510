"""Everything an HTTP worker does with the accounts' database, over one handle."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from dragoman.accounts.database_thread import DatabaseThread
from dragoman.gateway.accounts import AccountAccessController, AccountsOptions
from dragoman.gateway.answers import MAX_RESPONSE_BYTES, DatabaseIdempotencyStore


class Books:
    """One worker's: who may come in and what they pay, the answers that are kept, and a thread for all else."""

    def __init__(self, options: AccountsOptions, *, largest_answer: int = MAX_RESPONSE_BYTES) -> None:
        """`largest_answer` is the most bytes of an answer that is kept."""
        self._database = options.database
        self.access = AccountAccessController(options)
        self.thread = DatabaseThread(options.database)
        self.answers = DatabaseIdempotencyStore(self.thread, self.access.process_id, max_response_bytes=largest_answer)

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Within the block requests may come, once; its end settles and closes all. Raises what open_ledger does."""
        try:
            async with self.access.opened(), self.answers.sweeping():
                yield
        finally:
            await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Wait for what is under way on the thread, and close the connections."""
        self.thread.close()
        self._database.close()
