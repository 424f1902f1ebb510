import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.money import (
    MAX_AMOUNT,
    InvalidAmount,
    check_amount,
    format_amount,
    format_price_per_million,
    parse_amount,
)


@given(st.integers(-MAX_AMOUNT, MAX_AMOUNT))
def test_a_formatted_amount_is_parsed_back(amount: int) -> None:
    assert parse_amount(format_amount(amount)) == amount


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0.00"), (12_500_000_000, "12.50"), (-1, "-0.000000001"), (-12 * 10**9, "-12.00")]
)
def test_amounts_are_formatted_in_units_with_two_digits_or_more(amount: int, text: str) -> None:
    assert format_amount(amount) == text


@pytest.mark.parametrize("text", ["", "a", "1,5", "NaN", "Infinity", "0.0000000001", "1e30", "9223372036.854775808"])
def test_invalid_amounts_are_refused(text: str) -> None:
    with pytest.raises(InvalidAmount):
        parse_amount(text)


def test_amounts_beyond_64_bits_are_refused() -> None:
    assert check_amount(-MAX_AMOUNT) == -MAX_AMOUNT
    with pytest.raises(InvalidAmount, match="more than the ledger can hold"):
        check_amount(MAX_AMOUNT + 1)


def test_a_price_is_formatted_per_million_tokens() -> None:
    assert format_price_per_million(150) == "0.15"
