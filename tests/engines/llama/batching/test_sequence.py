import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dragoman.engines.llama.arrays import Cells
from tests.support.batching import BatcherHarness


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40)), max_size=8))
def test_added_cells_follow_the_others_and_change_none_that_are_kept(steps: list[tuple[int, int]]) -> None:
    harness = BatcherHarness()
    harness.add([1, 2, 3])
    (sequence,) = harness.batcher.scheduler.waiting
    expected: list[int] = []
    kept: list[tuple[Cells, list[int]]] = []
    for number, (added, rejected) in enumerate(steps):
        cells = list(range(number * 100, number * 100 + added + rejected))
        sequence.add_cells(np.array(cells, dtype=np.int32))
        assert sequence.cells.tolist() == [*expected, *cells]
        expected = [*expected, *cells[:added]]
        sequence.cells = sequence.cells[: len(expected)]
        kept.append((sequence.cells, expected))
    assert all(cells.tolist() == then for cells, then in kept)
