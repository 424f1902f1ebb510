"""How much is stored in one transaction, for whose end other writers wait: renewals of leases, and on SQLite all."""

import itertools
from collections.abc import Sequence

MAX_BATCH_BYTES = 8 * 1024 * 1024


def batch_length(sizes: Sequence[int]) -> int:
    """Return how many of the first items, of these sizes in bytes, are stored together: at least one."""
    fitting = itertools.takewhile(lambda total: total <= MAX_BATCH_BYTES, itertools.accumulate(sizes))
    return max(1, sum(1 for _ in fitting))
