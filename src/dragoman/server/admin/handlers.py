"""The handlers of the admin API, one for each route. They block, and run on the database's thread.

They raise the errors of the accounts' functions, which routes.py maps to statuses.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from dragoman.accounts.administration import accounts, keys, prices, usage
from dragoman.accounts.administration.accounts import Account
from dragoman.accounts.administration.audit_log import Administrator, KeyUpdate, list_audit_entries
from dragoman.accounts.administration.keys import KeyNotFound
from dragoman.accounts.administration.usage import UsageFilter
from dragoman.accounts.database.connections import Database
from dragoman.accounts.identifiers import MAX_ID_DIGITS
from dragoman.accounts.times import to_day_number, to_milliseconds
from dragoman.core.money import parse_amount, parse_price_per_million
from dragoman.gateway.routing.catalog import Catalog
from dragoman.server.admin import serializers, wire
from dragoman.server.control import ModelAction, ModelChangeRefused, request_model_change, request_reload
from dragoman.server.reloading import ReloadRefused

Payload = TypeVar("Payload", bound=msgspec.Struct)


class AdminRequest(NamedTuple):
    """An authenticated request."""

    database: Database
    administrator: Administrator
    path: Mapping[str, str]
    body: msgspec.Struct | None
    query: msgspec.Struct | None
    catalog: Catalog
    server_folder: Path | None
    """The runtime folder of the server."""

    def payload(self, struct: type[Payload]) -> Payload:
        """Return the body or the query, as the type that the route declares."""
        found = self.query if self.body is None else self.body
        assert isinstance(found, struct), "routes.py decodes the type that route_table.py declares"
        return found


def list_models(request: AdminRequest) -> wire.ModelStateList:
    return wire.ModelStateList(data=list(map(serializers.model_state_body, request.catalog.deployments)))


def reload(request: AdminRequest) -> wire.ReloadBody:
    if request.server_folder is None:
        raise ReloadRefused("this server has no settings to read again")
    made = request_reload(request.server_folder)
    return wire.ReloadBody(generation=made.generation, changed=made.changed, restart_needed=made.restart_needed)


def load_model(request: AdminRequest) -> wire.ModelChangeBody:
    return _change_model(request, "load")


def unload_model(request: AdminRequest) -> wire.ModelChangeBody:
    return _change_model(request, "unload")


def _change_model(request: AdminRequest, action: ModelAction) -> wire.ModelChangeBody:
    model = request.catalog.resolve(request.payload(wire.ModelName).model).deployment.name
    if request.server_folder is None:
        raise ModelChangeRefused("this server has no process for engines")
    request_model_change(request.server_folder, action, model)
    return wire.ModelChangeBody(model=model)


def create_account(request: AdminRequest) -> wire.AccountBody:
    payload = request.payload(wire.NewAccount)
    return serializers.account_body(request.administrator.create_account(payload.name, payload.currency))


def list_accounts(request: AdminRequest) -> wire.AccountPage:
    query = request.payload(wire.AfterQuery)
    found = accounts.list_accounts(request.database, after=query.after, limit=query.limit)
    return wire.AccountPage(
        data=list(map(serializers.account_body, found)), next=serializers.next_page(found, query.limit)
    )


def show_account(request: AdminRequest) -> wire.AccountBody:
    return serializers.account_body(_requested_account(request))


def deposit(request: AdminRequest) -> wire.DepositBody:
    payload = request.payload(wire.NewDeposit)
    made = request.administrator.deposit(
        _requested_account(request).id, parse_amount(payload.amount), reference=payload.reference, note=payload.note
    )
    return serializers.deposit_body(made)


def list_deposits(request: AdminRequest) -> wire.DepositPage:
    query = request.payload(wire.BeforeQuery)
    found = accounts.list_deposits(
        request.database, _requested_account(request).id, before=query.before, limit=query.limit
    )
    return wire.DepositPage(
        data=list(map(serializers.deposit_body, found)), next=serializers.next_page(found, query.limit)
    )


def create_key(request: AdminRequest) -> wire.CreatedKeyBody:
    payload = request.payload(wire.NewKeyRequest)
    made = request.administrator.create_key(
        payload.account,
        label=payload.label,
        rules=serializers.new_rules(payload),
        other_accounts=payload.other_accounts,
    )
    return serializers.new_key_body(made.key, made.secret)


def list_keys(request: AdminRequest) -> wire.KeyPage:
    query = request.payload(wire.KeysQuery)
    found = keys.list_keys(request.database, account_id=query.account, after=query.after, limit=query.limit)
    return wire.KeyPage(data=list(map(serializers.key_body, found)), next=serializers.next_page(found, query.limit))


def show_key(request: AdminRequest) -> wire.KeyBody:
    return serializers.key_body(keys.get_key(request.database, _key_id(request)))


def change_key(request: AdminRequest) -> wire.KeyBody:
    patch = request.payload(wire.KeyPatch)
    key_id = _key_id(request)
    # Unchanged rules are read in the writing transaction, so that concurrent changes do not undo each other.
    with request.database.write():
        rules = serializers.changed_rules(keys.get_key(request.database, key_id, lock=True).rules, patch)
        change = KeyUpdate(
            label=_unset_to_none(patch.label),
            rules=rules,
            other_accounts=_unset_to_none(patch.other_accounts),
            disabled=_unset_to_none(patch.disabled),
        )
        return serializers.key_body(request.administrator.change_key(key_id, change))


def revoke_key(request: AdminRequest) -> wire.KeyBody:
    return serializers.key_body(request.administrator.revoke_key(_key_id(request)))


def set_price(request: AdminRequest) -> wire.PriceBody:
    payload = request.payload(wire.NewPrice)
    price = request.administrator.set_price(
        payload.model,
        parse_price_per_million(payload.prompt),
        parse_price_per_million(payload.completion),
        cached=None if payload.cached is None else parse_price_per_million(payload.cached),
        valid_from=0 if payload.valid_from is None else to_milliseconds(payload.valid_from),
    )
    return serializers.price_body(price)


def list_prices(request: AdminRequest) -> wire.PriceList:
    found = prices.list_prices(request.database, request.payload(wire.PricesQuery).model)
    return wire.PriceList(data=list(map(serializers.price_body, found)))


def list_usage(request: AdminRequest) -> wire.UsagePage:
    query = request.payload(wire.UsageQuery)
    found = usage.list_usage(request.database, _usage_filter(query), before=query.before, limit=query.limit)
    return wire.UsagePage(data=list(map(serializers.usage_body, found)), next=serializers.next_page(found, query.limit))


def list_daily_usage(request: AdminRequest) -> wire.DailyUsagePage:
    query = request.payload(wire.DailyUsageQuery)
    found = usage.list_daily_usage(request.database, _usage_filter(query), limit=query.limit, offset=query.offset)
    next_offset = query.offset + query.limit if len(found) == query.limit else None
    return wire.DailyUsagePage(data=list(map(serializers.daily_usage_body, found)), next=next_offset)


def audit(request: AdminRequest) -> wire.ChangePage:
    query = request.payload(wire.BeforeQuery)
    found = list_audit_entries(request.database, before=query.before, limit=query.limit)
    return wire.ChangePage(
        data=list(map(serializers.change_body, found)), next=serializers.next_page(found, query.limit)
    )


_Value = TypeVar("_Value")


def _unset_to_none(value: _Value | msgspec.UnsetType) -> _Value | None:
    return None if isinstance(value, msgspec.UnsetType) else value


def _requested_account(request: AdminRequest) -> Account:
    return accounts.find_account(request.database, request.path["account"])


def _key_id(request: AdminRequest) -> int:
    text = request.path["key"]
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_ID_DIGITS):
        raise KeyNotFound(f"There is no key {text!r}")
    return int(text)


def _usage_filter(query: wire.UsageQuery | wire.DailyUsageQuery) -> UsageFilter:
    first, last = (None if day is None else to_day_number(day) for day in (query.first_day, query.last_day))
    return UsageFilter(account_id=query.account, key_id=query.key, model=query.model, first_day=first, last_day=last)
