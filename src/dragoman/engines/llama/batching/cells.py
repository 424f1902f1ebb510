"""The allocator of KV cells: how many sequences refer to each cell, and how many cells are free.

llama.cpp holds the cells. The allocator mirrors its counting, so that the scheduler knows before a decode whether
there is room, and a test can prove that nothing leaks. Its cell numbers are not those of llama.cpp.
"""

import numpy as np
import numpy.typing as npt

Cells = npt.NDArray[np.int32]

NO_CELLS: Cells = np.empty(0, dtype=np.int32)


class CellAllocator:
    """Reference counts of `total` cells."""

    def __init__(self, total: int, *, reuses: bool = True) -> None:
        """`reuses`: a cell without references is free immediately. Otherwise it is free only after `sweep`."""
        self.total = total
        self._reuses_cells = reuses
        self._references = np.zeros(total, dtype=np.int32)
        self._free = np.arange(total - 1, -1, -1, dtype=np.int32)
        self.free = total
        """Number of cells that can be allocated."""
        self.spent = 0
        """Number of cells without references that wait for `sweep`."""

    @property
    def used(self) -> int:
        """Number of cells that at least one sequence refers to."""
        return self.total - self.free - self.spent

    def allocate(self, count: int) -> Cells:
        """Allocate `count` cells, each with one reference. The caller has checked that enough cells are free."""
        assert count <= self.free, "the scheduler has counted the free cells before it allocates"
        self.free -= count
        allocated = self._free[self.free : self.free + count].copy()
        self._references[allocated] = 1
        return allocated

    def share(self, cells: Cells) -> None:
        """Add a reference to each cell."""
        self._references[cells] += 1

    def release(self, cells: Cells) -> None:
        """Remove a reference from each cell. Cells without references become free or spent."""
        self._references[cells] -= 1
        freed = cells[self._references[cells] == 0]
        if not self._reuses_cells:
            self.spent += len(freed)
            return
        self._free[self.free : self.free + len(freed)] = freed
        self.free += len(freed)

    def sweep(self) -> None:
        """Make all spent cells free. The caller has checked that no cell is used."""
        assert not self.used, "spent cells are swept only while no cell is used"
        self._free = np.arange(self.total - 1, -1, -1, dtype=np.int32)
        self.free, self.spent = self.total, 0

    def count_exclusive(self, cells: Cells) -> int:
        """Count the cells that would become free if all of them were released."""
        return int(np.count_nonzero(self._references[cells] == 1))
