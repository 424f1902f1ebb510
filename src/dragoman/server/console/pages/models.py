"""The models: state, load and price."""

import time
from typing import Any

from starlette.responses import Response

from dragoman.accounts.administration.audit_log import Administrator
from dragoman.accounts.administration.prices import Price, list_prices
from dragoman.core.money import parse_price_per_million
from dragoman.server.console.page import PageRequest


async def show(page: PageRequest) -> Response:
    """Show all models, or those that the viewer's key may use."""
    gauges = {model.name: model for model in (await page.broadcast.gauges()).models}
    prices = {} if page.services.thread is None else _current(await page.read(list_prices))
    models: list[dict[str, Any]] = [
        {
            "model": model,
            "gauges": gauges.get(model.base or model.id),
            "price": prices.get(model.id) or prices.get(model.base or ""),
            "dialects": page.services.catalog.resolve(model.base or model.id).deployment.dialects,
        }
        for model in await page.visible_models()
    ]
    return page.render("models.html", models=models)


async def set_price(page: PageRequest) -> Response:
    """Set the price of a model from now on."""
    fields = await page.fields()
    await page.change(
        Administrator.set_price,
        fields.required("model"),
        parse_price_per_million(fields.required("prompt")),
        parse_price_per_million(fields.required("completion")),
        cached=None if fields.text("cached") is None else parse_price_per_million(fields.required("cached")),
    )
    return page.redirect("/models")


def _current(prices: list[Price]) -> dict[str, Price]:
    """Return the price of each model that is valid now: the list is in the order of time."""
    now = time.time_ns() // 1_000_000
    return {price.model: price for price in prices if price.valid_from <= now}
