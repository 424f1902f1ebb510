import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dragoman.engines.llama.native.libraries.ik_llama_cpp import BLOCK_CELLS, overlooks_last_cells

CELLS = 5 * BLOCK_CELLS


def found_by_the_fork(used: set[int]) -> int:
    """Return the highest used cell as the fork finds it: by the ends of blocks first. -1: none."""
    end = CELLS - 1
    while end > 0 and end not in used:
        end -= BLOCK_CELLS
    block = range(min(end + BLOCK_CELLS, CELLS - 1), max(end, -1), -1)
    return next((cell for cell in block if cell in used), end if end in used else -1)


@given(st.sets(st.integers(0, CELLS - 1)))
def test_cells_that_the_fork_overlooks_are_always_noticed(used: set[int]) -> None:
    if used and found_by_the_fork(used) != max(used):
        assert overlooks_last_cells(np.array(sorted(used), dtype=np.intp))


@given(st.integers(0, CELLS))
def test_cells_in_one_piece_from_the_first_are_never_overlooked(count: int) -> None:
    assert not overlooks_last_cells(np.arange(count, dtype=np.intp))
