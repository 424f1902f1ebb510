"""Prices of models, each valid from a time on."""

from typing import Any

import msgspec
from sqlalchemy import Row, insert, select

from dragoman.accounts.administration.names import check_model
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import prices
from dragoman.core.money import InvalidAmount, check_amount


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """The price of a deployment or adapter in nano-units per token, valid until a later price is."""

    id: int
    model: str
    prompt: int
    cached: int
    """For a prompt token that is shared with an earlier request instead of computed."""
    completion: int
    valid_from: int
    """Milliseconds since 1970 (UTC)."""
    created_at: int


def set_price(
    database: Database, model: str, prompt: int, completion: int, *, cached: int | None = None, valid_from: int = 0
) -> Price:
    """Add a price. `cached=None` is the prompt's price; a `valid_from` in the past means now.

    Earlier charges do not change: a request is charged at the price of its admission. Raises InvalidAmount for a price
    that is negative or too large, or a cached token that costs more than a computed one: a hold would not cover it; and
    ValueError for an empty name.
    """
    check_model(model)
    cached = prompt if cached is None else cached
    if not 0 <= cached <= check_amount(prompt) or check_amount(completion) < 0:
        raise InvalidAmount("No price may be negative, and a cached prompt token may not cost more than another one")
    with database.write() as connection:
        now = database.now(connection).wall
        amounts = {"prompt": prompt, "cached": cached, "completion": completion}
        times = {"valid_from": max(valid_from, now), "created_at": now}
        row = connection.execute(insert(prices).values(model=model, **amounts, **times).returning(*prices.c)).one()
        return _price(row)


def list_prices(database: Database, model: str | None = None) -> list[Price]:
    """List past, current and future prices, of one model or of all, by model and time."""
    query = select(prices).order_by(prices.c.model, prices.c.valid_from, prices.c.id)
    if model is not None:
        query = query.where(prices.c.model == model)
    with database.read() as connection:
        return [_price(row) for row in connection.execute(query)]


def get_price(database: Database, price_id: int) -> Price:
    """Return the price with this id. Raises LookupError."""
    with database.read() as connection:
        row = connection.execute(select(prices).where(prices.c.id == price_id)).one_or_none()
    if row is None:
        raise LookupError(f"There is no price {price_id}")
    return _price(row)


def _price(row: Row[Any]) -> Price:
    return msgspec.convert(row, Price, from_attributes=True)
