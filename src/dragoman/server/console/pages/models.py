"""The models: state, load and price."""

import asyncio
import time
from pathlib import Path
from typing import Any

from starlette.responses import Response

from dragoman.accounts.administration.audit_log import Administrator
from dragoman.accounts.administration.prices import Price, list_prices
from dragoman.core.money import parse_price_per_million
from dragoman.server.console.counts import prompt_counts
from dragoman.server.console.page import PageError, PageRequest
from dragoman.server.control import ModelAction, ModelChangeRefused, request_model_change


async def show(page: PageRequest) -> Response:
    """Show all models, or those that the viewer's key may use."""
    gauges = {model.name: model for model in (await page.broadcast.gauges()).models}
    counts = prompt_counts(await page.broadcast.counts()) if page.viewer.is_operator else {}
    sources = {each.name: each.model for each in page.services.settings.deployments}
    prices = {} if page.services.thread is None else _current(await page.read(list_prices))
    models: list[dict[str, Any]] = [
        {
            "model": model,
            "gauges": gauges.get(model.base or model.id),
            "counts": counts.get(model.base or model.id),
            "source": sources.get(model.base or model.id),
            "price": prices.get(model.id) or prices.get(model.base or ""),
            "dialects": page.services.catalog.resolve(model.base or model.id).deployment.dialects,
        }
        for model in await page.visible_models()
    ]
    return page.render("models.html", models=models, on_demand=_on_demand(page))


async def load(page: PageRequest) -> Response:
    """Start the engines of a model before its first request."""
    return await _change(page, "load")


async def unload(page: PageRequest) -> Response:
    """End the engines of a model as soon as it has no request."""
    return await _change(page, "unload")


async def _change(page: PageRequest, action: ModelAction) -> Response:
    model = (await page.fields()).required("model")
    folder = page.services.metrics.directory
    if folder is None:
        raise PageError(409, "This server has no process for engines", "")
    try:
        await asyncio.to_thread(request_model_change, Path(folder), action, model)
    except ModelChangeRefused as error:
        raise PageError(409, f"The model is not {action}ed", str(error)) from error
    return page.redirect("/models")


def _on_demand(page: PageRequest) -> set[str]:
    """Return the deployments whose engines come and go: a request loads them, and they may be unloaded."""
    deployments = page.services.settings.deployments
    return {each.name for each in deployments if each.load == "lazy" or each.unload_idle_seconds is not None}


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
