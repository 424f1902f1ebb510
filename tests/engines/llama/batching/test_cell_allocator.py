"""The cell allocator against a model of reference counts."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dragoman.engines.llama.arrays import NO_CELLS, Cells
from dragoman.engines.llama.batching.cache import CellAllocator

TOTAL = 12


class AllocatorModel(RuleBasedStateMachine):
    """Holders of cells, like sequences. The allocator must agree with a count of the references."""

    def __init__(self) -> None:
        super().__init__()
        self.allocator = CellAllocator(TOTAL)
        self.held: list[Cells] = []

    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(0, self.allocator.free))
        taken = self.allocator.allocate(count)
        assert len(set(taken.tolist())) == count
        assert not set(taken.tolist()) & set(self.references())
        self.held.append(taken)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def share_a_beginning(self, data: st.DataObject) -> None:
        cells = data.draw(st.sampled_from(self.held))
        shared = cells[: data.draw(st.integers(0, len(cells)))]
        self.allocator.share(shared)
        self.held.append(shared)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release_an_end(self, data: st.DataObject) -> None:
        holder = data.draw(st.integers(0, len(self.held) - 1))
        kept = data.draw(st.integers(0, len(self.held[holder])))
        self.allocator.release(self.held[holder][kept:])
        self.held[holder] = self.held[holder][:kept]

    @invariant()
    def a_cell_is_free_when_unreferenced(self) -> None:
        references = self.references()
        assert self.allocator.used == len(references)
        assert self.allocator.free == TOTAL - len(references)

    @invariant()
    def a_cell_is_exclusive_with_one_reference(self) -> None:
        references = self.references()
        for cells in self.held:
            assert self.allocator.count_exclusive(cells) == sum(references[cell] == 1 for cell in cells.tolist())

    def teardown(self) -> None:
        for cells in self.held:
            self.allocator.release(cells)
        assert self.allocator.free == TOTAL
        assert sorted(self.allocator.allocate(TOTAL).tolist()) == list(range(TOTAL))

    def references(self) -> dict[int, int]:
        cells = np.concatenate([NO_CELLS, *self.held])
        return dict(zip(*(values.tolist() for values in np.unique(cells, return_counts=True)), strict=True))


TestAllocator = AllocatorModel.TestCase
TestAllocator.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_taking_more_cells_than_are_free_is_a_defect_of_the_caller() -> None:
    allocator = CellAllocator(4)
    allocator.allocate(3)
    with pytest.raises(AssertionError, match="counted"):
        allocator.allocate(2)


def test_no_cells_can_be_taken_shared_and_released() -> None:
    allocator = CellAllocator(0)
    assert allocator.allocate(0).tolist() == []
    allocator.share(NO_CELLS)
    allocator.release(NO_CELLS)
    assert allocator.free == 0
