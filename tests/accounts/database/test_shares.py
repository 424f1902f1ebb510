from hypothesis import example, given
from hypothesis import strategies as st

from dragoman.accounts.database.shares import excess_by_owner

STORED = st.dictionaries(st.integers(0, 20), st.integers(0, 1000), max_size=8)


@given(STORED, st.integers(0, 4000))
@example({1: 10, 2: 200, 3: 300}, 200)
@example({1: 10, 2: 20}, 30)
def test_what_remains_fits_and_nothing_is_given_up_without_need(stored: dict[int, int], limit: int) -> None:
    excess = excess_by_owner(stored, limit)
    remaining = sum(stored.values()) - sum(excess.values())
    assert remaining <= limit
    assert all(0 < given_up <= stored[owner] for owner, given_up in excess.items())
    # Equal shares are rounded down to whole bytes.
    assert not excess or remaining > limit - len(excess)
    assert excess or sum(stored.values()) <= limit


@given(STORED, st.integers(0, 4000))
@example({1: 10, 2: 200, 3: 300}, 200)
def test_no_owner_gives_up_anything_of_an_equal_part_or_keeps_more_than_another_that_gives_up(
    stored: dict[int, int], limit: int
) -> None:
    excess = excess_by_owner(stored, limit)
    kept = {owner: size - excess.get(owner, 0) for owner, size in stored.items()}
    for owner in excess:
        assert kept[owner] >= limit // len(stored)
        assert all(kept[owner] >= other for other in kept.values())
