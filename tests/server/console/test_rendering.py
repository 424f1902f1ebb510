"""Amounts as the console writes them."""

import pytest

from dragoman.server.console.rendering import (
    align_amount,
    compact_number,
    decimal_places,
    format_duration,
    name_class,
    price_amount,
    short_amount,
)

NANO = 10**9


@pytest.mark.parametrize(
    ("amount", "short", "price"),
    [
        (0, "0.00", "0.00"),
        (720_000, "0.00072", "0.00072"),
        (700_000, "0.00070", "0.00070"),
        (7_200, "0.0000072", "0.0000072"),
        (6_834_000, "0.0068", "0.00683"),
        (12_020_000, "0.012", "0.01202"),
        (500_000_000, "0.50", "0.50000"),
        (-500_000_000, "-0.50", "-0.50000"),
        (1_234_567_890_000, "1\u202f234.56", "1\u202f234.56789"),
    ],
)
def test_a_small_amount_has_two_digits_that_count_and_a_price_five_places(amount: int, short: str, price: str) -> None:
    assert (short_amount(amount), price_amount(amount)) == (short, price)


def test_the_points_of_a_column_stand_below_each_other_and_no_digit_is_lost() -> None:
    column = [514_512_400, 45_292_480, 3 * NANO, -1]
    texts = [align_amount(amount, decimal_places(column)) for amount in column]
    assert texts == ["0.514512400", "0.045292480", "3.000000000", "-0.000000001"]
    assert align_amount(NANO, decimal_places([NANO])) == "1.00"


def test_only_names_with_long_words_are_broken_within_them() -> None:
    names = ("nightly batch", "smollm2-135m-instruct", "", "o" * 21, f"owl {'o' * 30}")
    assert [name_class(name) for name in names] == ["name", "name", "name", "name long", "name long"]


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (None, "–"),
        (0, "0 ms"),
        (999.4, "999 ms"),
        (999.6, "1.00 s"),
        (9_996, "10.0 s"),
        (99_940, "99.9 s"),
        (99_960, "1 min 40 s"),
        (150_000, "2 min 30 s"),
        (3_599_700, "1 h"),
        (5_400_000, "1 h 30 min"),
        (86_400_000, "1 d"),
        (100_000_000, "1 d 4 h"),
        (30 * 86_400_000, "30 d"),
    ],
)
def test_a_duration_is_rounded_once_and_has_a_second_unit_where_one_is_too_coarse(
    milliseconds: float | None, text: str
) -> None:
    assert format_duration(milliseconds).replace("\u202f", " ") == text


def test_a_number_is_rounded_before_its_unit_is_chosen() -> None:
    numbers = (0, 9.96, 999, 999.96, 9_996, 999_600, 999_600_000)
    assert [compact_number(each).replace("\u202f", " ") for each in numbers] == [
        *("0", "10.0", "999", "1.00 k", "10.0 k", "1.00 M", "1.00 G"),
    ]
