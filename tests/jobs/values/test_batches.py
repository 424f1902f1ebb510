"""A transaction stores as many items as are not too large together."""

import pytest

from dragoman.jobs.values.batches import MAX_BATCH_BYTES, batch_length


@pytest.mark.parametrize(
    ("sizes", "length"),
    [([1] * 100, 100), ([MAX_BATCH_BYTES // 3] * 100, 3), ([2 * MAX_BATCH_BYTES, 1], 1), ([1, MAX_BATCH_BYTES], 1)],
)
def test_small_items_are_stored_together_and_a_large_one_alone(sizes: list[int], length: int) -> None:
    assert batch_length(sizes) == length
