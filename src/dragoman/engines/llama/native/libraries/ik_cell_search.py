"""How ik_llama.cpp finds the highest used KV cell, which decides how far its attention reaches.

It checks the last cell of each block from the top down until one is used, and then searches the block above it. It
misses the highest cell if the last cell of its block is free and that of the block below is free too. Then tokens are
computed without the ones just before them, and the logits are not finite if no cell of their sequence remains.
"""

import numpy as np
import numpy.typing as npt

BLOCK_CELLS = 32
"""Without flash attention, its attention passes over whole blocks of this number of cells."""


def overlooks_last_cells(used: npt.NDArray[np.intp]) -> bool:
    """Return whether attention might end before the highest used cell, wherever the next batch is put.

    `used` has the indices of the used cells, in ascending order. A batch goes into free cells below the highest one or
    right above it, and neither causes this where it was not so before.
    """
    if not len(used):
        return False
    highest = int(used[-1])
    block_start = highest - highest % BLOCK_CELLS
    ends_block = highest == block_start + BLOCK_CELLS - 1
    return block_start > 0 and not ends_block and bool(used[used.searchsorted(block_start) - 1] != block_start - 1)
