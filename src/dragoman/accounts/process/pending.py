"""What a client of the ledger has been asked and has not answered."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from dragoman.accounts.ledger.operations import LedgerOperation, Settled
from dragoman.core.errors import LedgerUnavailable

_MIN_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 0.05, 1.0
_BACKOFF_SHARE = 0.25
"""The longest backoff in relation to the timeout: every operation is tried before its deadline, also in an outage."""


class Backoff:
    """How long the next transaction waits after others have failed."""

    def __init__(self, timeout_seconds: float) -> None:
        self.seconds = 0.0
        self._max_seconds = min(_MAX_BACKOFF_SECONDS, _BACKOFF_SHARE * timeout_seconds)

    def grow(self) -> None:
        """Wait for longer after a further failure."""
        self.seconds = min(self._max_seconds, self.seconds * 2 or _MIN_BACKOFF_SECONDS)


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


def unavailable() -> LedgerUnavailable:
    """Return the refusal of an operation that the database did not answer in time."""
    return LedgerUnavailable("The accounts' database does not answer", retry_after=5)


def ignore_result(released: "asyncio.Future[Settled]") -> None:
    """Note that nobody waits for a settlement. One of a request that held nothing fails with NeverAdmitted."""
    if not released.cancelled():
        released.exception()
