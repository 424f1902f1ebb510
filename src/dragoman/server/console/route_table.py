"""The routes of the console: the one table that says who may use which. What is not here does not exist."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from starlette.responses import Response

from dragoman.server.console.page import PageRequest
from dragoman.server.console.pages import (
    accounts,
    audit,
    bodies,
    events,
    health,
    keys,
    models,
    overview,
    playground,
    queue,
    requests,
    responses,
    sign_in,
    upstreams,
    usage,
)
from dragoman.server.console.viewers import BOTH, OPERATOR_ONLY, Role


class ConsoleRoute(NamedTuple):
    """One route of the console and its handler."""

    method: str
    path: str
    roles: frozenset[Role] | None
    """None: everybody, also without signing in."""
    handler: Callable[[PageRequest], Awaitable[Response]]
    again: Callable[[PageRequest], Awaitable[Response]] | None = None
    """Shows the form again if it is refused, with what was typed. None: an error page says why."""


CONSOLE_ROUTES = (
    ConsoleRoute("GET", "/login", None, sign_in.show),
    ConsoleRoute("POST", "/login", None, sign_in.sign_in),
    ConsoleRoute("POST", "/logout", BOTH, sign_in.sign_out),
    ConsoleRoute("GET", "/", BOTH, overview.show),
    ConsoleRoute("GET", "/events", BOTH, events.stream),
    ConsoleRoute("GET", "/playground", BOTH, playground.show),
    ConsoleRoute("POST", "/playground/key", OPERATOR_ONLY, playground.use_key),
    ConsoleRoute("GET", "/requests", BOTH, requests.show),
    ConsoleRoute("GET", "/requests/{request_id}", BOTH, requests.show_request),
    ConsoleRoute("GET", "/requests/{request_id}/charge", BOTH, requests.show_charge),
    ConsoleRoute("GET", "/requests/{request_id}/body", BOTH, bodies.show),
    ConsoleRoute("POST", "/requests/{request_id}/body/delete", BOTH, bodies.delete),
    ConsoleRoute("GET", "/usage", BOTH, usage.show),
    ConsoleRoute("GET", "/usage.csv", BOTH, usage.download),
    ConsoleRoute("GET", "/queue", BOTH, queue.show),
    ConsoleRoute("GET", "/queue/{job}", BOTH, queue.show_job),
    ConsoleRoute("POST", "/queue/{job}/cancel", BOTH, queue.cancel),
    ConsoleRoute("POST", "/queue/{job}/priority", OPERATOR_ONLY, queue.prioritize, queue.show_job),
    ConsoleRoute("POST", "/queue/{job}/webhook", BOTH, queue.send_webhook),
    ConsoleRoute("POST", "/queue/{job}/retry", OPERATOR_ONLY, queue.retry),
    ConsoleRoute("GET", "/responses", BOTH, responses.show),
    ConsoleRoute("POST", "/responses/{response}/delete", BOTH, responses.delete),
    ConsoleRoute("GET", "/models", BOTH, models.show),
    ConsoleRoute("POST", "/models/load", OPERATOR_ONLY, models.load),
    ConsoleRoute("POST", "/models/unload", OPERATOR_ONLY, models.unload),
    ConsoleRoute("POST", "/models/prices", OPERATOR_ONLY, models.set_price, models.show),
    ConsoleRoute("GET", "/upstreams", OPERATOR_ONLY, upstreams.show),
    ConsoleRoute("POST", "/upstreams", OPERATOR_ONLY, upstreams.add, upstreams.show),
    ConsoleRoute("POST", "/upstreams/drain", OPERATOR_ONLY, upstreams.drain),
    ConsoleRoute("POST", "/upstreams/undrain", OPERATOR_ONLY, upstreams.undrain),
    ConsoleRoute("POST", "/upstreams/probe", OPERATOR_ONLY, upstreams.probe),
    ConsoleRoute("POST", "/upstreams/remove", OPERATOR_ONLY, upstreams.remove),
    ConsoleRoute("GET", "/keys", BOTH, keys.show),
    ConsoleRoute("POST", "/keys", OPERATOR_ONLY, keys.create, accounts.show_account_of_key),
    ConsoleRoute("GET", "/keys/{key}", OPERATOR_ONLY, keys.show_key),
    ConsoleRoute("POST", "/keys/{key}", OPERATOR_ONLY, keys.change, keys.show_key),
    ConsoleRoute("POST", "/keys/{key}/rotate", OPERATOR_ONLY, keys.rotate),
    ConsoleRoute("POST", "/keys/{key}/disable", OPERATOR_ONLY, keys.disable),
    ConsoleRoute("POST", "/keys/{key}/enable", OPERATOR_ONLY, keys.enable),
    ConsoleRoute("GET", "/accounts", OPERATOR_ONLY, accounts.show, accounts.show),
    ConsoleRoute("POST", "/accounts", OPERATOR_ONLY, accounts.create, accounts.show),
    ConsoleRoute("GET", "/accounts/{account}", OPERATOR_ONLY, accounts.show_account),
    ConsoleRoute("POST", "/accounts/{account}/deposit", OPERATOR_ONLY, accounts.deposit, accounts.show_account),
    ConsoleRoute("GET", "/health", OPERATOR_ONLY, health.show),
    ConsoleRoute("GET", "/audit", OPERATOR_ONLY, audit.show),
)
