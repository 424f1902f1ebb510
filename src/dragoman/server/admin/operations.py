"""Every route of the admin API with what it does; routes.py serves them and the OpenAPI document tells of them."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from dragoman.dialects.operation import Operation
from dragoman.server.admin import actions, wire
from dragoman.server.admin.actions import Call


class Action(NamedTuple):
    """A route."""

    operation: Operation
    do: Callable[[Call], msgspec.Struct]


def _read(
    path: str, summary: str, answer: type[msgspec.Struct], query: type[msgspec.Struct] | None = None
) -> Operation:
    missing = (404,) if "{" in path else ()
    return Operation("GET", path, summary, answer, wire.ErrorBody, (400, 401, *missing, 503), query=query)


def _change(
    method: str,
    path: str,
    summary: str,
    answer: type[msgspec.Struct],
    request: type[msgspec.Struct] | None,
    statuses: tuple[int, ...] = (),
) -> Operation:
    errors = (400, 401, *statuses, *(() if request is None else (413,)), 503)
    return Operation(method, path, summary, answer, wire.ErrorBody, errors, request)


_ACCOUNTS, _KEYS = "/admin/accounts", "/admin/keys"
_ACCOUNT, _KEY = f"{_ACCOUNTS}/{{account}}", f"{_KEYS}/{{key}}"
_DEPOSITS = f"{_ACCOUNT}/deposits"

ACTIONS = (
    Action(
        _change("POST", _ACCOUNTS, "Open an account", wire.AccountBody, wire.NewAccount, (409,)),
        actions.create_account,
    ),
    Action(_read(_ACCOUNTS, "List accounts", wire.AccountPage, wire.AfterQuery), actions.list_accounts),
    Action(_read(_ACCOUNT, "An account, by its number or name", wire.AccountBody), actions.show_account),
    Action(_change("POST", _DEPOSITS, "Pay in, or out", wire.DepositBody, wire.NewDeposit, (404,)), actions.deposit),
    Action(_read(_DEPOSITS, "List deposits", wire.DepositPage, wire.BeforeQuery), actions.list_deposits),
    Action(_change("POST", _KEYS, "Make a key", wire.NewKeyBody, wire.NewKey, (404,)), actions.create_key),
    Action(_read(_KEYS, "List keys", wire.KeyPage, wire.KeysQuery), actions.list_keys),
    Action(_read(_KEY, "A key", wire.KeyBody), actions.show_key),
    Action(_change("PATCH", _KEY, "Change a key's rules", wire.KeyBody, wire.KeyPatch, (404,)), actions.change_key),
    Action(_change("DELETE", _KEY, "Revoke a key", wire.KeyBody, None, (404,)), actions.revoke_key),
    Action(_change("POST", "/admin/prices", "Set a price", wire.PriceBody, wire.NewPrice), actions.set_price),
    Action(_read("/admin/prices", "List prices", wire.PriceList, wire.PricesQuery), actions.list_prices),
    Action(_read("/admin/usage", "List requests", wire.UsagePage, wire.UsageQuery), actions.list_usage),
    Action(_read("/admin/usage/daily", "Sums by day", wire.DayPage, wire.DaysQuery), actions.list_days),
    Action(_read("/admin/audit", "Who changed what", wire.ChangePage, wire.BeforeQuery), actions.audit),
)

OPERATIONS = tuple(action.operation for action in ACTIONS)
"""The routes for the OpenAPI document."""
