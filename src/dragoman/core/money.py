"""Amounts of money: integers of nano-units, a thousand-millionth of the account's currency unit.

A price per token of 150 is 0.15 units for a million tokens.
"""

from decimal import Decimal, InvalidOperation

NANO = 10**9
"""Nano-units in one unit of a currency."""

MAX_AMOUNT = 2**63 - 1
"""The maximum of a 64-bit column: some 9.2 thousand million units."""

MAX_TOKEN_COUNT = 2**53 - 1
"""The largest token count; many JSON parsers round larger integers."""


class InvalidAmount(ValueError):
    """An amount that is not a whole number of nano-units or does not fit into 64 bits."""


def check_amount(amount: int) -> int:
    """Return the amount. Raises InvalidAmount unless it fits into 64 bits with its sign."""
    if not -MAX_AMOUNT <= amount <= MAX_AMOUNT:
        raise InvalidAmount(f"{amount} nano-units are more than the ledger can hold ({MAX_AMOUNT})")
    return amount


def parse_amount(text: str) -> int:
    """Parse an amount in units, as in "12.50", to nano-units. Raises InvalidAmount."""
    try:
        units = Decimal(text.strip())
    except InvalidOperation:
        raise InvalidAmount(f"{text!r} is not an amount; write it as in 12.50") from None
    # Count the digits first: scaling would silently round them to the context's precision.
    if not units.is_finite() or len(units.as_tuple().digits) > len(str(MAX_AMOUNT)) or abs(units.adjusted()) > 18:
        raise InvalidAmount(f"{text!r} is not an amount the ledger can hold")
    nano = units.scaleb(9)
    if nano != int(nano):
        raise InvalidAmount(f"{text!r} has more than nine digits after the point")
    return check_amount(int(nano))


def parse_price_per_million(text: str) -> int:
    """Parse a price in units per million tokens to nano-units per token. Raises InvalidAmount."""
    price, rest = divmod(parse_amount(text), 1_000_000)
    if rest:
        raise InvalidAmount(f"{text!r} for a million tokens has more than three digits after the point")
    return price


def format_amount(amount: int) -> str:
    """Format the amount in units with all digits that it needs, at least two after the point."""
    units, nano = divmod(abs(amount), NANO)
    fraction = f"{nano:09}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount < 0 else ''}{units}.{fraction}"


def format_price_per_million(price: int) -> str:
    """Format a price in nano-units per token as units per million tokens."""
    return format_amount(price * 1_000_000)
