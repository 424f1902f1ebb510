"""What a ledger's client counts, for metrics."""

from collections import deque

import msgspec

_MAX_ANSWERS = 10_000
"""Answers whose times are kept until they are taken; then the oldest are forgotten."""


def _no_answers() -> deque[float]:
    return deque(maxlen=_MAX_ANSWERS)


class LedgerStatistics(msgspec.Struct):
    """What has happened in some time."""

    answer_seconds: deque[float] = msgspec.field(default_factory=_no_answers)
    """From being asked to the answer, of the operation of each transaction that was asked first."""
    database_failures: int = 0
    """Transactions that the database failed. They are repeated."""
    process_failures: int = 0
    """Ends of the ledger's process that were not asked for, and starts of it that failed."""
