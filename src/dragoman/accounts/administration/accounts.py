"""Accounts and deposits."""

from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, insert, select, update
from sqlalchemy.exc import IntegrityError

from dragoman.accounts.administration.names import check_currency, check_name
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import accounts, movements
from dragoman.accounts.identifiers import MAX_ID_DIGITS
from dragoman.core.money import check_amount, format_amount

DEFAULT_CURRENCY = "USD"

_NO_PATHS = frozenset({"", ".", ".."})
"""What clients and proxies leave out between the slashes of an address."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A prepaid account. Always `deposits = balance + holds + charges`; amounts are nano-units of the currency."""

    id: int
    name: str
    currency: str
    created_at: int
    deposits: int
    """Total paid in, minus what was paid out."""
    balance: int
    """Available to new requests. Below zero only if a capped hold was too small for its request."""
    holds: int
    """Held for running requests."""
    charges: int
    """Charged for settled requests."""


class Deposit(msgspec.Struct, frozen=True, kw_only=True):
    """Money paid in, or paid out if the amount is negative."""

    id: int
    account_id: int
    at: int
    amount: int
    reference: str | None
    note: str | None


class AccountNotFound(LookupError):
    """The account does not exist."""


class AccountNameTaken(ValueError):
    """Another account has the name."""


class DepositRefused(ValueError):
    """The balance does not cover the amount to pay out, or another deposit has the reference."""


def create_account(database: Database, name: str, currency: str = DEFAULT_CURRENCY) -> Account:
    """Create an account. Raises AccountNameTaken, and ValueError for a name that is none or that could be a number."""
    check_name("The name", name)
    check_currency(currency)
    if not name.strip() or name.isdecimal():
        raise ValueError(f"An account may not be called {name!r}: a name is not empty and not a number")
    if name != name.strip() or not _NO_PATHS.isdisjoint(name.split("/")) or name.endswith("/deposits"):
        raise ValueError(
            f"An account may not be called {name!r}: a header or an address such as /admin/accounts/NAME could not "
            "have it; leave out spaces around it, '.', '..' or nothing between slashes, and '/deposits' at its end"
        )
    try:
        with database.write() as connection:
            values = {"name": name, "currency": currency, "created_at": database.now(connection).wall}
            totals = {"deposits": 0, "balance": 0, "holds": 0, "charges": 0}
            account_id = connection.execute(
                insert(accounts).values(**values, **totals).returning(accounts.c.id)
            ).scalar_one()
            return get_account(connection, account_id)
    except IntegrityError:
        raise AccountNameTaken(f"There is an account called {name!r} already") from None


def find_account(database: Database, account: str) -> Account:
    """Return the account with this number or name. Raises AccountNotFound."""
    row = None
    if condition := _id_or_name_condition(account):
        with database.read() as connection:
            row = connection.execute(select(accounts).where(*condition)).one_or_none()
    if row is None:
        raise AccountNotFound(f"There is no account {account!r}")
    return _account(row)


def list_accounts(database: Database, *, after: int = 0, limit: int = 100) -> list[Account]:
    """List up to `limit` accounts with numbers above `after`, in order."""
    query = select(accounts).where(accounts.c.id > after).order_by(accounts.c.id).limit(limit)
    with database.read() as connection:
        return [_account(row) for row in connection.execute(query)]


def deposit(
    database: Database, account_id: int, amount: int, *, reference: str | None = None, note: str | None = None
) -> Deposit:
    """Pay in, or pay out a negative amount that the balance covers.

    A `reference`, such as a payment's number, is booked once: a repetition returns the first deposit and changes
    nothing. Raises AccountNotFound, DepositRefused, money.InvalidAmount.
    """
    if not amount:
        raise DepositRefused("A deposit must not be zero")
    with database.write() as connection:
        account = get_account(connection, account_id, lock=True)
        if reference is not None and (existing := _find_by_reference(connection, reference)) is not None:
            if (existing.account_id, existing.amount) != (account_id, amount):
                raise DepositRefused(
                    f"{reference!r} is the reference of a deposit of {format_amount(existing.amount)} "
                    f"to account {existing.account_id}"
                )
            return existing
        if amount < 0 and account.balance + amount < 0:
            raise DepositRefused(
                f"The balance of {format_amount(account.balance)} does not cover {format_amount(-amount)}"
            )
        totals = {
            "deposits": check_amount(account.deposits + amount),
            "balance": check_amount(account.balance + amount),
        }
        connection.execute(update(accounts).where(accounts.c.id == account_id).values(**totals))
        changes = {"deposits": amount, "balance": amount, "holds": 0, "charges": 0}
        at = database.now(connection).wall
        names = {"kind": "deposit", "reference": reference, "note": note}
        row = connection.execute(
            insert(movements).values(account_id=account_id, at=at, **names, **changes).returning(*_DEPOSIT_COLUMNS)
        ).one()
        return _deposit(row)


def list_deposits(database: Database, account_id: int, *, before: int | None = None, limit: int = 100) -> list[Deposit]:
    """List up to `limit` deposits, newest first; `before` is the id of the last deposit of the previous page."""
    query = select(*_DEPOSIT_COLUMNS).where(movements.c.account_id == account_id, movements.c.kind == "deposit")
    if before is not None:
        query = query.where(movements.c.id < before)
    with database.read() as connection:
        return [_deposit(row) for row in connection.execute(query.order_by(movements.c.id.desc()).limit(limit))]


def get_account(connection: Connection, account_id: int, *, lock: bool = False) -> Account:
    """Return the account with this number. Raises AccountNotFound."""
    query = select(accounts).where(accounts.c.id == account_id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise AccountNotFound(f"There is no account {account_id}")
    return _account(row)


_DEPOSIT_COLUMNS = (
    movements.c.id,
    movements.c.account_id,
    movements.c.at,
    movements.c.deposits.label("amount"),
    movements.c.reference,
    movements.c.note,
)


def _id_or_name_condition(account: str) -> list[ColumnElement[bool]]:
    """Return the condition on the row; empty for numbers and names that the database cannot store."""
    if account.isdecimal():
        return [accounts.c.id == int(account)] if len(account) <= MAX_ID_DIGITS else []
    return [accounts.c.name == account] if "\0" not in account else []


def _find_by_reference(connection: Connection, reference: str) -> Deposit | None:
    row = connection.execute(select(*_DEPOSIT_COLUMNS).where(movements.c.reference == reference)).one_or_none()
    return None if row is None else _deposit(row)


def _account(row: Row[Any]) -> Account:
    return msgspec.convert(row, Account, from_attributes=True)


def _deposit(row: Row[Any]) -> Deposit:
    return msgspec.convert(row, Deposit, from_attributes=True)
