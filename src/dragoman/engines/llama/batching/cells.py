"""The ledger of KV cells: how many sequences refer to each, and how many are free.

llama.cpp keeps the cells; this ledger mirrors its counting, so that the scheduler knows before a decode whether
there is room and a test can prove that nothing leaks. Its cell numbers are not llama.cpp's.
"""

import numpy as np
import numpy.typing as npt

Cells = npt.NDArray[np.int32]

NO_CELLS: Cells = np.empty(0, dtype=np.int32)


class CellAllocator:
    """Reference counts of `total` cells."""

    def __init__(self, total: int, *, reuses: bool = True) -> None:
        """`reuses`: a cell is free again as soon as nobody refers to it; otherwise only after `sweep`."""
        self.total = total
        self._reuses_at_once = reuses
        self._references = np.zeros(total, dtype=np.int32)
        self._free = np.arange(total - 1, -1, -1, dtype=np.int32)
        self.free = total
        """Cells no sequence refers to."""

        self.spent = 0
        """Cells that nobody refers to and that wait for `sweep`."""

    @property
    def used(self) -> int:
        """Cells at least one sequence refers to."""
        return self.total - self.free - self.spent

    def allocate(self, count: int) -> Cells:
        """`count` free cells, each with one reference. The caller made sure that there are so many."""
        assert count <= self.free, "the scheduler takes no cell it has not counted"
        self.free -= count
        allocated = self._free[self.free : self.free + count].copy()
        self._references[allocated] = 1
        return allocated

    def share(self, cells: Cells) -> None:
        """One more reference to each cell."""
        self._references[cells] += 1

    def release(self, cells: Cells) -> None:
        """One reference less to each cell; those without any are free."""
        self._references[cells] -= 1
        freed = cells[self._references[cells] == 0]
        if not self._reuses_at_once:
            self.spent += len(freed)
            return
        self._free[self.free : self.free + len(freed)] = freed
        self.free += len(freed)

    def sweep(self) -> None:
        """Make all spent cells free. The caller made sure that no cell is used."""
        assert not self.used, "spent cells are swept only when nothing lies between them"
        self._free = np.arange(self.total - 1, -1, -1, dtype=np.int32)
        self.free, self.spent = self.total, 0

    def count_exclusive(self, cells: Cells) -> int:
        """How many of the cells would become free if they were released."""
        return int(np.count_nonzero(self._references[cells] == 1))
