"""What a client of the ledger has been asked and has not answered."""

import asyncio
from typing import Any

import msgspec

from dragoman.accounts.ledger.operations import LedgerOperation


class PendingOperation(msgspec.Struct, eq=False):
    """An operation and the future of its caller."""

    operation: LedgerOperation
    future: asyncio.Future[Any]
    deadline: float
    """On the event loop's clock, counted from being asked."""
    expires: bool
    """Whether its caller waits no longer than that."""
    lingers: bool = False
    """Whether it may wait for others to share its transaction."""
    may_be_committed: bool = False
    """Whether an earlier transaction with it may have been committed."""

    def is_overdue(self, now: float) -> bool:
        """Whether its caller waits no longer."""
        return self.expires and now >= self.deadline
