"""Shares of a limit that several owners have in common: who must give up how much when it is exceeded."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from sqlalchemy import Row

Owner = TypeVar("Owner")


def excess_by_owner(stored: Mapping[Owner, int], limit: int) -> dict[Owner, int]:
    """Return how many bytes each owner must give up so that all together have at most `limit`.

    The owners with the most give up the most, down to the same share (max-min fairness): an owner that has no more than
    an equal part of the limit gives up nothing, whatever the others store. Owners that keep everything are left out.
    """
    remaining = limit
    share = 0
    for count, size in zip(range(len(stored), 0, -1), sorted(stored.values()), strict=True):
        share = max(0, remaining) // count
        if size > share:
            break
        remaining -= size
    else:
        return {}
    return {owner: size - share for owner, size in stored.items() if size > share}


def rows_of_excess(rows: Iterable[Row[Any]], excess: int) -> list[Row[Any]]:
    """Return as many of the first rows as have at least `excess` bytes together. No `bytes` count as 0."""
    chosen: list[Row[Any]] = []
    for row in rows:
        if excess <= 0:
            break
        chosen.append(row)
        excess -= row.bytes or 0
    return chosen
