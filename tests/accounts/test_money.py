import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.accounts.money import LARGEST_AMOUNT, InvalidAmount, checked, formatted, parsed, per_million


@given(st.integers(-LARGEST_AMOUNT, LARGEST_AMOUNT))
def test_an_amount_is_read_as_it_was_written(amount: int) -> None:
    assert parsed(formatted(amount)) == amount


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0.00"), (12_500_000_000, "12.50"), (-1, "-0.000000001"), (-12 * 10**9, "-12.00")]
)
def test_amounts_are_written_in_units_with_two_digits_or_more(amount: int, text: str) -> None:
    assert formatted(amount) == text


@pytest.mark.parametrize("text", ["", "a", "1,5", "NaN", "Infinity", "0.0000000001", "1e30", "9223372036.854775808"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(InvalidAmount):
        parsed(text)


def test_amounts_beyond_64_bits_are_refused() -> None:
    assert checked(-LARGEST_AMOUNT) == -LARGEST_AMOUNT
    with pytest.raises(InvalidAmount, match="more than the ledger can hold"):
        checked(LARGEST_AMOUNT + 1)


def test_a_price_is_told_for_a_million_tokens() -> None:
    assert per_million(150) == "0.15"
