"""What an HTTP worker does with the accounts' database beside admitting and settling."""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from dragoman.accounts.database import Database
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.opening import open_accounts
from dragoman.gateway.answers import LARGEST_ANSWER, DatabaseAnswers
from dragoman.gateway.database_thread import DatabaseThread
from dragoman.gateway.usage import AccountUsage


class Books:
    """One worker's. They work from the beginning; `open` lets others know that this process lives."""

    def __init__(self, database: Database, journals: Path, *, largest_answer: int = LARGEST_ANSWER) -> None:
        """`journals` is as in accounts.opening, `largest_answer` the most bytes of an answer that is kept."""
        self._database = database
        self._journals = journals
        self._process_id = new_process_id()
        self.thread = DatabaseThread(database)
        self.usage = AccountUsage(self.thread, self._process_id, "arcee")
        self.answers = DatabaseAnswers(self.thread, self._process_id, largest_answer=largest_answer)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Within the block, claims of this process stand. Raises what open_accounts does."""
        try:
            async with open_accounts(self._database, self._journals, process_id=self._process_id), self.answers.swept():
                yield
        finally:
            await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Wait for what is under way, and close the connections."""
        self.thread.close()
        self.usage.close()
        self._database.close()


def journal_folder(database: Database) -> Path:
    """Where the journals of all processes on this machine lie that use the database: beside it if it is a file."""
    if database.is_sqlite:
        return Path(f"{database.engine.url.database}.journals")
    name = hashlib.sha256(repr(database.engine.url).encode()).hexdigest()[:16]
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return data / "dragoman" / "journals" / name
