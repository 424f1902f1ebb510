"""Everything an HTTP worker does with the accounts' database, over one handle."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from dragoman.accounts.database_thread import DatabaseThread
from dragoman.gateway.accounts import AccountAccess, AccountsOptions
from dragoman.gateway.answers import LARGEST_ANSWER, DatabaseAnswers


class Books:
    """One worker's: who may come in and what they pay, the answers that are kept, and a thread for all else."""

    def __init__(self, options: AccountsOptions, *, largest_answer: int = LARGEST_ANSWER) -> None:
        """`largest_answer` is the most bytes of an answer that is kept."""
        self._database = options.database
        self.access = AccountAccess(options)
        self.thread = DatabaseThread(options.database)
        self.answers = DatabaseAnswers(self.thread, self.access.process_id, largest_answer=largest_answer)

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Within the block requests may come, once; its end settles and closes all. Raises what open_accounts does."""
        try:
            async with self.access.opened(), self.answers.swept():
                yield
        finally:
            await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Wait for what is under way on the thread, and close the connections."""
        self.thread.close()
        self._database.close()
