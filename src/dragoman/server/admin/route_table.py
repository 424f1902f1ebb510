"""The routes of the admin API and their handlers. routes.py serves them, and the OpenAPI document lists them."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from dragoman.dialects.http.operation import Operation
from dragoman.server.admin import handlers, upstream_handlers, wire
from dragoman.server.admin.handlers import AdminRequest


class AdminRoute(NamedTuple):
    """One route and its handler."""

    operation: Operation
    handler: Callable[[AdminRequest], msgspec.Struct]


def _read(
    handler: Callable[[AdminRequest], msgspec.Struct],
    path: str,
    summary: str,
    response: type[msgspec.Struct],
    query: type[msgspec.Struct] | None = None,
) -> AdminRoute:
    not_found = (404,) if "{" in path else ()
    operation = Operation(
        method="GET",
        path=path,
        summary=summary,
        response=response,
        error=wire.AdminErrorBody,
        error_statuses=(400, 401, *not_found, 503),
        query=query,
    )
    return AdminRoute(operation, handler)


def _write(
    handler: Callable[[AdminRequest], msgspec.Struct],
    operation: tuple[str, str, str],
    response: type[msgspec.Struct],
    request: type[msgspec.Struct] | None,
    *statuses: int,
) -> AdminRoute:
    """Return the route of an operation, which is a method, a path and a summary."""
    method, path, summary = operation
    return AdminRoute(
        Operation(
            method=method,
            path=path,
            summary=summary,
            response=response,
            error=wire.AdminErrorBody,
            error_statuses=(400, 401, *statuses, *(() if request is None else (413,)), 503),
            request=request,
        ),
        handler,
    )


def _upstream_change(
    handler: Callable[[AdminRequest], msgspec.Struct],
    path: str,
    summary: str,
    request: type[msgspec.Struct] = wire.UpstreamName,
) -> AdminRoute:
    # Names have slashes, so they are in the body.
    return _write(handler, ("POST", f"{_UPSTREAMS}{path}", summary), wire.UpstreamChangeBody, request, 404)


def _model_change(handler: Callable[[AdminRequest], msgspec.Struct], action: str, summary: str) -> AdminRoute:
    operation = ("POST", f"/admin/models/{action}", summary)
    return _write(handler, operation, wire.ModelChangeBody, wire.ModelName, *_NO_MODEL_OR_NO_CHANGE)


_NO_MODEL_OR_NO_CHANGE = (404, 409)
_UPSTREAMS = "/admin/upstreams"
_ACCOUNTS, _KEYS, _PRICES = "/admin/accounts", "/admin/keys", "/admin/prices"
_ACCOUNT, _KEY = f"{_ACCOUNTS}/{{account}}", f"{_KEYS}/{{key}}"
_DEPOSITS = f"{_ACCOUNT}/deposits"

ADMIN_ROUTES = (
    _write(handlers.create_account, ("POST", _ACCOUNTS, "Create an account"), wire.AccountBody, wire.NewAccount, 409),
    _read(handlers.list_accounts, _ACCOUNTS, "List accounts", wire.AccountPage, wire.AfterQuery),
    _read(handlers.show_account, _ACCOUNT, "Show an account, by its number or name", wire.AccountBody),
    _write(handlers.deposit, ("POST", _DEPOSITS, "Deposit, or pay out"), wire.DepositBody, wire.NewDeposit, 404),
    _read(handlers.list_deposits, _DEPOSITS, "List deposits", wire.DepositPage, wire.BeforeQuery),
    _write(handlers.create_key, ("POST", _KEYS, "Create a key"), wire.CreatedKeyBody, wire.NewKeyRequest, 404),
    _read(handlers.list_keys, _KEYS, "List keys", wire.KeyPage, wire.KeysQuery),
    _read(handlers.show_key, _KEY, "Show a key", wire.KeyBody),
    _write(handlers.change_key, ("PATCH", _KEY, "Change a key's rules"), wire.KeyBody, wire.KeyPatch, 404),
    _write(handlers.revoke_key, ("DELETE", _KEY, "Revoke a key"), wire.KeyBody, None, 404),
    _write(handlers.set_price, ("POST", _PRICES, "Set a price"), wire.PriceBody, wire.NewPrice),
    _read(handlers.list_prices, _PRICES, "List prices", wire.PriceList, wire.PricesQuery),
    _read(handlers.list_models, "/admin/models", "List the models and their states", wire.ModelStateList),
    _model_change(handlers.load_model, "load", "Load a model"),
    _model_change(handlers.unload_model, "unload", "Unload a model when it has no request"),
    _write(handlers.reload, ("POST", "/admin/reload", "Read the settings again"), wire.ReloadBody, None, 409),
    _read(upstream_handlers.list_states, _UPSTREAMS, "List the upstreams and their states", wire.UpstreamList),
    _upstream_change(upstream_handlers.add, "", "Add an upstream", wire.NewUpstream),
    _upstream_change(upstream_handlers.drain, "/drain", "Send an upstream no further requests"),
    _upstream_change(upstream_handlers.undrain, "/undrain", "Send an upstream requests again"),
    _upstream_change(upstream_handlers.remove, "/remove", "Remove an upstream that was added"),
    _read(handlers.list_usage, "/admin/usage", "List requests", wire.UsagePage, wire.UsageQuery),
    _read(
        handlers.list_daily_usage, "/admin/usage/daily", "List sums by day", wire.DailyUsagePage, wire.DailyUsageQuery
    ),
    _read(handlers.audit, "/admin/audit", "List changes", wire.ChangePage, wire.BeforeQuery),
)

OPERATIONS = tuple(route.operation for route in ADMIN_ROUTES)
"""The operations, for the OpenAPI document."""
