"""Whose waiting work leaves its place to another's when no more may wait."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Protocol, TypeVar


class Owned(Protocol):
    """Work of an owner."""

    @property
    def owner(self) -> str:
        """Whose it is."""
        ...


Work = TypeVar("Work", bound=Owned)


def displaceable(waiting: Iterable[Work], owner: str) -> list[Work]:
    """Return the work of the owner with the most, in its order. Empty if it has not two more than `owner`."""
    by_owner: defaultdict[str, list[Work]] = defaultdict(list)
    for work in waiting:
        by_owner[work.owner].append(work)
    most = max(by_owner.values(), key=len, default=[])
    return most if len(most) >= len(by_owner.get(owner, ())) + 2 else []
