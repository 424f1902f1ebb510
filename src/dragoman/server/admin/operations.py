"""Every route of the admin API with what it does; routes.py serves them and the OpenAPI document tells of them."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from dragoman.dialects.http.operation import Operation
from dragoman.server.admin import actions, wire
from dragoman.server.admin.actions import AdminRequest


class AdminRoute(NamedTuple):
    """A route."""

    operation: Operation
    handler: Callable[[AdminRequest], msgspec.Struct]


def _read_operation(
    path: str, summary: str, answer: type[msgspec.Struct], query: type[msgspec.Struct] | None = None
) -> Operation:
    missing = (404,) if "{" in path else ()
    return Operation(
        method="GET",
        path=path,
        summary=summary,
        response=answer,
        error=wire.AdminErrorBody,
        error_statuses=(400, 401, *missing, 503),
        query=query,
    )


def _write_operation(
    method: str,
    path: str,
    summary: str,
    answer: type[msgspec.Struct],
    request: type[msgspec.Struct] | None,
    statuses: tuple[int, ...] = (),
) -> Operation:
    errors = (400, 401, *statuses, *(() if request is None else (413,)), 503)
    return Operation(
        method=method,
        path=path,
        summary=summary,
        response=answer,
        error=wire.AdminErrorBody,
        error_statuses=errors,
        request=request,
    )


_ACCOUNTS, _KEYS = "/admin/accounts", "/admin/keys"
_ACCOUNT, _KEY = f"{_ACCOUNTS}/{{account}}", f"{_KEYS}/{{key}}"
_DEPOSITS = f"{_ACCOUNT}/deposits"

ADMIN_ROUTES = (
    AdminRoute(
        _write_operation("POST", _ACCOUNTS, "Open an account", wire.AccountBody, wire.NewAccount, (409,)),
        actions.create_account,
    ),
    AdminRoute(_read_operation(_ACCOUNTS, "List accounts", wire.AccountPage, wire.AfterQuery), actions.list_accounts),
    AdminRoute(_read_operation(_ACCOUNT, "An account, by its number or name", wire.AccountBody), actions.show_account),
    AdminRoute(
        _write_operation("POST", _DEPOSITS, "Pay in, or out", wire.DepositBody, wire.NewDeposit, (404,)),
        actions.deposit,
    ),
    AdminRoute(_read_operation(_DEPOSITS, "List deposits", wire.DepositPage, wire.BeforeQuery), actions.list_deposits),
    AdminRoute(
        _write_operation("POST", _KEYS, "Make a key", wire.CreatedKeyBody, wire.NewKeyRequest, (404,)),
        actions.create_key,
    ),
    AdminRoute(_read_operation(_KEYS, "List keys", wire.KeyPage, wire.KeysQuery), actions.list_keys),
    AdminRoute(_read_operation(_KEY, "A key", wire.KeyBody), actions.show_key),
    AdminRoute(
        _write_operation("PATCH", _KEY, "Change a key's rules", wire.KeyBody, wire.KeyPatch, (404,)), actions.change_key
    ),
    AdminRoute(_write_operation("DELETE", _KEY, "Revoke a key", wire.KeyBody, None, (404,)), actions.revoke_key),
    AdminRoute(
        _write_operation("POST", "/admin/prices", "Set a price", wire.PriceBody, wire.NewPrice), actions.set_price
    ),
    AdminRoute(_read_operation("/admin/prices", "List prices", wire.PriceList, wire.PricesQuery), actions.list_prices),
    AdminRoute(_read_operation("/admin/usage", "List requests", wire.UsagePage, wire.UsageQuery), actions.list_usage),
    AdminRoute(
        _read_operation("/admin/usage/daily", "Sums by day", wire.DailyUsagePage, wire.DailyUsageQuery),
        actions.list_daily_usage,
    ),
    AdminRoute(_read_operation("/admin/audit", "Who changed what", wire.ChangePage, wire.BeforeQuery), actions.audit),
)

OPERATIONS = tuple(route.operation for route in ADMIN_ROUTES)
"""The routes for the OpenAPI document."""
