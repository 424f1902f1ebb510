"""The names of accounts and keys, for pages that list many."""

from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec
from sqlalchemy import literal, select, union_all

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import accounts, keys
from dragoman.core.context import ACCOUNT_OWNER_PREFIX


class Names(msgspec.Struct, frozen=True):
    """Names by number."""

    accounts: Mapping[int, str]
    keys: Mapping[int, str]

    def account(self, number: int | None) -> str:
        """Return the account's name; empty without an account."""
        return self.accounts.get(number, f"account {number}") if number else ""

    def owner(self, owner: str) -> str:
        """Return whose a job or a response is."""
        account = owner_account(owner)
        return self.account(account) if account is not None else "a key of the settings" if owner else "anybody"

    def key(self, number: int | None) -> str:
        """Return the key's label, or else its number; empty without a key."""
        return self.keys.get(number, f"key {number}") if number else ""


NO_NAMES = Names({}, {})


def owner_account(owner: str) -> int | None:
    """Return the number of the account that is the owner. None: it is none."""
    number = owner.removeprefix(ACCOUNT_OWNER_PREFIX)
    return int(number) if owner.startswith(ACCOUNT_OWNER_PREFIX) and number.isdecimal() else None


class _HasOwner(Protocol):
    @property
    def account_id(self) -> int | None: ...

    @property
    def key_id(self) -> int | None: ...


def read_names(database: Database, rows: Iterable[_HasOwner]) -> Names:
    """Return the names of the rows' accounts and keys, by one query."""
    rows = list(rows)
    return names_of(
        database, {row.account_id for row in rows if row.account_id}, {row.key_id for row in rows if row.key_id}
    )


def names_of_owners(database: Database, owners: Iterable[str]) -> Names:
    """Return the names of the accounts among the owners, by one query."""
    return names_of(database, filter(None, map(owner_account, owners)), ())


def names_of(database: Database, account_ids: Iterable[int], key_ids: Iterable[int]) -> Names:
    """Return the names of these accounts and keys, by one query."""
    account_ids, key_ids = set(account_ids), set(key_ids)
    if not account_ids and not key_ids:
        return NO_NAMES
    query = union_all(
        select(literal("account").label("kind"), accounts.c.id, accounts.c.name.label("name")).where(
            accounts.c.id.in_(account_ids)
        ),
        select(literal("key"), keys.c.id, keys.c.label).where(keys.c.id.in_(key_ids)),
    )
    with database.read() as connection:
        found = connection.execute(query).all()
    return Names(
        {row.id: row.name for row in found if row.kind == "account"},
        {row.id: row.name or f"key {row.id}" for row in found if row.kind == "key"},
    )
