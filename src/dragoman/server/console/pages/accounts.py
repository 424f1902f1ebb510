"""Accounts: balances, deposits, keys."""

from typing import Any

from starlette.responses import Response

from dragoman.accounts.administration.accounts import (
    DEFAULT_CURRENCY,
    Account,
    find_account,
    list_accounts,
    list_deposits,
)
from dragoman.accounts.administration.audit_log import Administrator
from dragoman.accounts.administration.key_activity import read_activity
from dragoman.accounts.administration.keys import list_keys
from dragoman.accounts.administration.usage_reports import RequestFilter, UsageSpan, usage_over_time
from dragoman.accounts.database.connections import Database
from dragoman.accounts.times import HOUR_MILLISECONDS
from dragoman.core.money import parse_amount
from dragoman.server.console.names import NO_NAMES
from dragoman.server.console.page import PageRequest

_SHOWN = 100
_DEPOSITS = 20


async def show(page: PageRequest) -> Response:
    """Show a page of accounts, or lead to the one that is looked for."""
    accounts: list[Account] = []
    wanted = page.query.text("account")
    if wanted is not None and page.refusal is None and page.services.has_accounts:
        account = await page.read(find_account, wanted)
        return page.redirect(f"/accounts/{account.id}")
    if page.services.has_accounts:
        accounts = await page.read(_list, page.query.integer("after") or 0)
    more = page.renderer.url("/accounts", after=accounts[-1].id) if len(accounts) == _SHOWN else None
    return page.render("accounts.html", accounts=accounts, more=more, currency=DEFAULT_CURRENCY)


async def create(page: PageRequest) -> Response:
    """Create an account, with a first deposit if one is given."""
    fields = await page.fields()
    amount = None if fields.text("amount") is None else parse_amount(fields.required("amount"))
    currency = (fields.text("currency") or DEFAULT_CURRENCY).upper()
    if len(currency) != 3 or not currency.isascii() or not currency.isalpha():
        raise ValueError("A currency has three letters, as in USD")
    account = await page.change(_create, fields.required("name"), currency, amount)
    return page.redirect(f"/accounts/{account.id}")


async def show_account(page: PageRequest) -> Response:
    """Show one account with its keys, deposits and last day."""
    return page.render("account.html", **await page.read(_read, page.path["account"]))


async def show_account_of_key(page: PageRequest) -> Response:
    """Show the account that a refused form wanted a key for."""
    return page.render("account.html", **await page.read(_read, (await page.fields()).required("account")))


async def deposit(page: PageRequest) -> Response:
    """Pay in, or out."""
    fields = await page.fields()
    account = await page.read(find_account, page.path["account"])
    await page.change(
        Administrator.deposit,
        account.id,
        parse_amount(fields.required("amount")),
        reference=fields.text("reference"),
        note=fields.text("note"),
    )
    return page.redirect(f"/accounts/{account.id}")


def _list(database: Database, after: int) -> list[Account]:
    return list_accounts(database, after=after, limit=_SHOWN)


def _create(administrator: Administrator, name: str, currency: str, amount: int | None) -> Account:
    with administrator.database.write():
        account = administrator.create_account(name, currency)
        if amount:
            administrator.deposit(account.id, amount)
        return account


def _read(database: Database, number_or_name: str) -> dict[str, Any]:
    account = find_account(database, number_or_name)
    with database.read() as connection:
        now = database.now(connection).wall // HOUR_MILLISECONDS
    keys = list_keys(database, account_id=account.id, limit=_SHOWN)
    points = usage_over_time(database, UsageSpan(1, now - 23, now), RequestFilter(account_id=account.id))
    return {
        "account": account,
        "keys": keys,
        "last_key": keys[-1].id if len(keys) == _SHOWN else None,
        "activity": read_activity(database, keys),
        "names": NO_NAMES,
        "deposits": list_deposits(database, account.id, limit=_DEPOSITS),
        "requests": sum(point.requests for point in points),
        "charge": sum(point.charge for point in points),
        "tokens": sum(point.prompt_tokens + point.completion_tokens for point in points),
    }
