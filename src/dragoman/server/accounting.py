"""Everything an HTTP worker does with the accounts' database, over one handle."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from dragoman.accounts.database.thread import DatabaseThread
from dragoman.gateway.auth.account_keys import AccountAccessController, AccountsOptions
from dragoman.gateway.execution.stored_responses import MAX_RESPONSE_BYTES, DatabaseIdempotencyStore


class AccountingServices:
    """One worker's: who may come in and what they pay, the answers that are kept, and a thread for all else."""

    def __init__(self, options: AccountsOptions, *, max_response_bytes: int = MAX_RESPONSE_BYTES) -> None:
        """`largest_answer` is the most bytes of an answer that is kept."""
        self._database = options.database
        self.access = AccountAccessController(options)
        self.database_thread = DatabaseThread(options.database)
        self.idempotency_store = DatabaseIdempotencyStore(
            self.database_thread, self.access.process_id, max_response_bytes=max_response_bytes
        )

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Within the block requests may come, once; its end settles and closes all. Raises what open_ledger does."""
        try:
            async with self.access.opened(), self.idempotency_store.sweeping():
                yield
        finally:
            await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Wait for what is under way on the thread, and close the connections."""
        self.database_thread.close()
        self._database.close()
