"""How much one transaction stores or removes. Others wait for it: renewals of leases, and on SQLite all who write."""

import itertools
from collections.abc import Sequence

MAX_BATCH_BYTES = 8 * 1024 * 1024


def batch_length(sizes: Sequence[int]) -> int:
    """Return how many of the first items, of these sizes in bytes, one transaction takes: at least one."""
    fitting = itertools.takewhile(lambda total: total <= MAX_BATCH_BYTES, itertools.accumulate(sizes))
    return max(1, sum(1 for _ in fitting))
