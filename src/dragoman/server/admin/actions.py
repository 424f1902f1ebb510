"""What the admin API does, one function a route. They block, and are run on the database's thread.

They raise what the accounts' functions raise; routes.py tells it.
"""

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import msgspec

from dragoman.accounts import balances, keys, prices, usage
from dragoman.accounts.balances import Account
from dragoman.accounts.changes import Administrator, KeyUpdate, list_audit_entries
from dragoman.accounts.database import Database
from dragoman.accounts.identifiers import MAX_ID_DIGITS
from dragoman.accounts.keys import KeyNotFound
from dragoman.accounts.money import parse_amount, parse_price_per_million
from dragoman.accounts.times import to_day_number, to_milliseconds
from dragoman.accounts.usage import UsageFilter
from dragoman.server.admin import shapes, wire

Sent = TypeVar("Sent", bound=msgspec.Struct)


class Call(NamedTuple):
    """A request by somebody who may make it."""

    database: Database
    administrator: Administrator
    path: Mapping[str, str]
    body: msgspec.Struct | None
    query: msgspec.Struct | None

    def sent(self, struct: type[Sent]) -> Sent:
        """The body or the query, of the type that the route takes."""
        found = self.query if self.body is None else self.body
        assert isinstance(found, struct), "routes.py decodes what operations.py names"
        return found


def create_account(call: Call) -> wire.AccountBody:
    sent = call.sent(wire.NewAccount)
    return shapes.account_body(call.administrator.create_account(sent.name, sent.currency))


def list_accounts(call: Call) -> wire.AccountPage:
    query = call.sent(wire.AfterQuery)
    found = balances.list_accounts(call.database, after=query.after, limit=query.limit)
    return wire.AccountPage(data=list(map(shapes.account_body, found)), next=shapes.next_page(found, query.limit))


def show_account(call: Call) -> wire.AccountBody:
    return shapes.account_body(_account(call))


def deposit(call: Call) -> wire.DepositBody:
    sent = call.sent(wire.NewDeposit)
    made = call.administrator.deposit(
        _account(call).id, parse_amount(sent.amount), reference=sent.reference, note=sent.note
    )
    return shapes.deposit_body(made)


def list_deposits(call: Call) -> wire.DepositPage:
    query = call.sent(wire.BeforeQuery)
    found = balances.list_deposits(call.database, _account(call).id, before=query.before, limit=query.limit)
    return wire.DepositPage(data=list(map(shapes.deposit_body, found)), next=shapes.next_page(found, query.limit))


def create_key(call: Call) -> wire.NewKeyBody:
    sent = call.sent(wire.NewKey)
    made = call.administrator.create_key(
        sent.account, label=sent.label, rules=shapes.new_rules(sent), other_accounts=sent.other_accounts
    )
    return shapes.new_key_body(made.key, made.secret)


def list_keys(call: Call) -> wire.KeyPage:
    query = call.sent(wire.KeysQuery)
    found = keys.list_keys(call.database, account_id=query.account, after=query.after, limit=query.limit)
    return wire.KeyPage(data=list(map(shapes.key_body, found)), next=shapes.next_page(found, query.limit))


def show_key(call: Call) -> wire.KeyBody:
    return shapes.key_body(keys.get_key(call.database, _key_id(call)))


def change_key(call: Call) -> wire.KeyBody:
    patch = call.sent(wire.KeyPatch)
    key_id = _key_id(call)
    # What stays is read in the transaction that writes: of two changes at once, neither undoes the other.
    with call.database.write():
        rules = shapes.changed_rules(keys.get_key(call.database, key_id, lock=True).rules, patch)
        change = KeyUpdate(
            label=_given(patch.label),
            rules=rules,
            other_accounts=_given(patch.other_accounts),
            disabled=_given(patch.disabled),
        )
        return shapes.key_body(call.administrator.change_key(key_id, change))


def revoke_key(call: Call) -> wire.KeyBody:
    return shapes.key_body(call.administrator.revoke_key(_key_id(call)))


def set_price(call: Call) -> wire.PriceBody:
    sent = call.sent(wire.NewPrice)
    price = call.administrator.set_price(
        sent.model,
        parse_price_per_million(sent.prompt),
        parse_price_per_million(sent.completion),
        cached=None if sent.cached is None else parse_price_per_million(sent.cached),
        valid_from=0 if sent.valid_from is None else to_milliseconds(sent.valid_from),
    )
    return shapes.price_body(price)


def list_prices(call: Call) -> wire.PriceList:
    found = prices.list_prices(call.database, call.sent(wire.PricesQuery).model)
    return wire.PriceList(data=list(map(shapes.price_body, found)))


def list_usage(call: Call) -> wire.UsagePage:
    query = call.sent(wire.UsageQuery)
    found = usage.list_usage(call.database, _wanted(query), before=query.before, limit=query.limit)
    return wire.UsagePage(data=list(map(shapes.usage_body, found)), next=shapes.next_page(found, query.limit))


def list_days(call: Call) -> wire.DayPage:
    query = call.sent(wire.DaysQuery)
    found = usage.list_daily_usage(call.database, _wanted(query), limit=query.limit, offset=query.offset)
    following = query.offset + query.limit if len(found) == query.limit else None
    return wire.DayPage(data=list(map(shapes.day_body, found)), next=following)


def audit(call: Call) -> wire.ChangePage:
    query = call.sent(wire.BeforeQuery)
    found = list_audit_entries(call.database, before=query.before, limit=query.limit)
    return wire.ChangePage(data=list(map(shapes.change_body, found)), next=shapes.next_page(found, query.limit))


_Given = TypeVar("_Given")


def _given(value: _Given | msgspec.UnsetType) -> _Given | None:
    return None if isinstance(value, msgspec.UnsetType) else value


def _account(call: Call) -> Account:
    return balances.find_account(call.database, call.path["account"])


def _key_id(call: Call) -> int:
    text = call.path["key"]
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_ID_DIGITS):
        raise KeyNotFound(f"There is no key {text!r}")
    return int(text)


def _wanted(query: wire.UsageQuery | wire.DaysQuery) -> UsageFilter:
    first, last = (None if day is None else to_day_number(day) for day in (query.first_day, query.last_day))
    return UsageFilter(query.account, query.key, query.model, first, last)
