"""What a client of the ledger has been asked and has not answered."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from dragoman.accounts.ledger.operations import LedgerOperation


class PendingOperation(msgspec.Struct, eq=False, kw_only=True):
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


def split_overdue(
    operations: Sequence[PendingOperation], now: float
) -> tuple[list[PendingOperation], list[PendingOperation]]:
    """Return the operations that are overdue, and the others."""
    overdue = [each for each in operations if each.is_overdue(now)]
    return overdue, [each for each in operations if not each.is_overdue(now)] if overdue else list(operations)
