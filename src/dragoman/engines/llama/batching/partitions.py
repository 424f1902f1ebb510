"""Which partition of the KV cells a new sequence gets. No model, no clock.

Attention in a partition takes its sequences times its cells. So sequences with texts of their own are better apart, and
sequences with a long common prefix together, up to the point where another pass over the weights is cheaper.
"""

from collections.abc import Sequence
from typing import NamedTuple

_OPENING_SHARE = 0.5
"""The part of a pass over the weights that the first sequence of a partition is charged: others will use it too."""


class PartitionLoad(NamedTuple):
    """What a partition has before a new sequence comes."""

    sequences: int
    """Running ones."""
    cells: int
    """Those that the running sequences hold, and will hold when their known tokens are computed."""
    shared: int
    """Tokens of the new sequence whose cells are here."""


def choose_partition(loads: Sequence[PartitionLoad], length: int, step_cells: int) -> int:
    """Return the number of the partition in which a sequence of `length` tokens makes a step least longer.

    `step_cells`: what a step of a partition takes besides attention, in cells that a token attends to.
    """
    most_shared = max(load.shared for load in loads)

    def added_cells(number: int) -> float:
        load = loads[number]
        copied = most_shared - load.shared
        if not load.sequences:
            return length + copied + _OPENING_SHARE * step_cells
        return load.cells + (load.sequences + 1) * (length - load.shared) + copied

    return min(range(len(loads)), key=added_cells)
