"""API keys: what a key may use, and how much of it."""

from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, delete, insert, select, update

from dragoman.accounts.administration.accounts import get_account
from dragoman.accounts.administration.names import check_model, check_name
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import key_accounts, keys
from dragoman.accounts.identifiers import new_api_key
from dragoman.core.context import key_digest
from dragoman.core.money import check_amount

_ENDING_LENGTH = 4


class KeyRules(msgspec.Struct, frozen=True, kw_only=True):
    """A key's permissions and limits. None: unlimited."""

    expires_at: int | None = None
    """Milliseconds since 1970 (UTC)."""
    models: tuple[str, ...] | None = None
    """Deployments and adapters by their own names."""
    dialects: tuple[str, ...] | None = None
    budget: int | None = None
    """Nano-units that it may spend in total, from any account."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key without its secret, which is not stored."""

    id: int
    ending: str
    """The last characters of the secret."""
    label: str
    account_id: int
    """Pays unless a request selects another account."""
    account_ids: tuple[int, ...]
    """All accounts that it may use, including `account_id`."""
    rules: KeyRules
    created_at: int
    disabled_at: int | None
    spent: int
    held: int
    """Held for its running requests."""
    running: int
    """Requests that run now, without queued ones."""


class CreatedKey(msgspec.Struct, frozen=True):
    """A key with its secret, which is not stored and cannot be shown again."""

    secret: str
    key: Key


class KeyNotFound(LookupError):
    """The key does not exist."""


def create_key(
    database: Database,
    account_id: int,
    *,
    label: str = "",
    rules: KeyRules | None = None,
    other_accounts: Iterable[int] = (),
) -> CreatedKey:
    """Create a key for an account. Raises AccountNotFound, and ValueError for wrong names and limits."""
    check_name("The label", label)
    rules = rules or KeyRules()
    _validate(rules)
    secret = new_api_key()
    with database.write() as connection:
        for each in (account_id, *other_accounts):
            get_account(connection, each)
        names = {
            "digest": key_digest(secret),
            "ending": secret[-_ENDING_LENGTH:],
            "label": label,
            "account_id": account_id,
        }
        key_id = connection.execute(
            insert(keys)
            .values(**names, created_at=database.now(connection).wall, spent=0, held=0, running=0, **_columns(rules))
            .returning(keys.c.id)
        ).scalar_one()
        _set_accounts(connection, key_id, {account_id, *other_accounts})
        return CreatedKey(secret, _get(connection, key_id))


def change_key(
    database: Database,
    key_id: int,
    *,
    label: str | None = None,
    rules: KeyRules | None = None,
    other_accounts: Iterable[int] | None = None,
) -> Key:
    """Change the given fields, from the next request on. Raises KeyNotFound, AccountNotFound, ValueError."""
    check_name("The label", label or "")
    if rules is not None:
        _validate(rules)
    with database.write() as connection:
        key = _get(connection, key_id)
        values = {} if rules is None else _columns(rules)
        values |= {} if label is None else {"label": label}
        if values:
            connection.execute(update(keys).where(keys.c.id == key_id).values(**values))
        if other_accounts is not None:
            accounts = {key.account_id, *other_accounts}
            for each in accounts:
                get_account(connection, each)
            _set_accounts(connection, key_id, accounts)
        return _get(connection, key_id)


def disable_key(database: Database, key_id: int) -> Key:
    """Refuse the key from now on, in every process. Running requests are not stopped. Raises KeyNotFound."""
    return _set_disabled(database, key_id, disabled=True)


def enable_key(database: Database, key_id: int) -> Key:
    """Accept the key again. Raises KeyNotFound."""
    return _set_disabled(database, key_id, disabled=False)


def get_key(database: Database, key_id: int, *, lock: bool = False) -> Key:
    """Return the key with this number. `lock` locks its row within a writing transaction. Raises KeyNotFound."""
    with database.write() if lock else database.read() as connection:
        return _get(connection, key_id, lock=lock)


def list_keys(database: Database, *, account_id: int | None = None, after: int = 0, limit: int = 100) -> list[Key]:
    """List up to `limit` keys with numbers above `after`, in order: all, or those that may use an account."""
    query = select(keys).where(keys.c.id > after).order_by(keys.c.id).limit(limit)
    if account_id is not None:
        key_ids = select(key_accounts.c.key_id).where(key_accounts.c.account_id == account_id)
        query = query.where(keys.c.id.in_(key_ids))
    with database.read() as connection:
        rows = connection.execute(query).all()
        usable = _accounts_of(connection, [row.id for row in rows])
    return [_key(row, tuple(usable.get(row.id, ()))) for row in rows]


def _set_disabled(database: Database, key_id: int, *, disabled: bool) -> Key:
    with database.write() as connection:
        key = _get(connection, key_id)
        if (key.disabled_at is not None) == disabled:
            return key
        at = database.now(connection).wall if disabled else None
        connection.execute(update(keys).where(keys.c.id == key_id).values(disabled_at=at))
        return _get(connection, key_id)


def _validate(rules: KeyRules) -> None:
    for model in rules.models or ():
        check_model(model)
    limits = {
        "budget": rules.budget,
        "requests_per_minute": rules.requests_per_minute,
        "tokens_per_minute": rules.tokens_per_minute,
        "concurrent_requests": rules.concurrent_requests,
    }
    for name, limit in limits.items():
        if limit is not None and check_amount(limit) < 1:
            raise ValueError(f"{name} is {limit}; it must be at least 1. Disable the key to refuse everything")


def _columns(rules: KeyRules) -> dict[str, Any]:
    names = {"models": rules.models, "dialects": rules.dialects}
    lists = {name: None if each is None else msgspec.json.encode(each).decode() for name, each in names.items()}
    return {**msgspec.structs.asdict(rules), **lists}


def _set_accounts(connection: Connection, key_id: int, account_ids: set[int]) -> None:
    connection.execute(delete(key_accounts).where(key_accounts.c.key_id == key_id))
    rows = [{"key_id": key_id, "account_id": account_id} for account_id in sorted(account_ids)]
    connection.execute(insert(key_accounts), rows)


def _accounts(connection: Connection, key_id: int) -> tuple[int, ...]:
    query = select(key_accounts.c.account_id).where(key_accounts.c.key_id == key_id)
    return tuple(connection.execute(query.order_by(key_accounts.c.account_id)).scalars())


def _accounts_of(connection: Connection, key_ids: list[int]) -> dict[int, list[int]]:
    query = select(key_accounts).where(key_accounts.c.key_id.in_(key_ids)).order_by(key_accounts.c.account_id)
    found: dict[int, list[int]] = {}
    for row in connection.execute(query):
        found.setdefault(row.key_id, []).append(row.account_id)
    return found


def _get(connection: Connection, key_id: int, *, lock: bool = False) -> Key:
    query = select(keys).where(keys.c.id == key_id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise KeyNotFound(f"There is no key {key_id}")
    return _key(row, _accounts(connection, key_id))


def _key(row: Row[Any], account_ids: tuple[int, ...]) -> Key:
    def names(text: str | None) -> tuple[str, ...] | None:
        return None if text is None else msgspec.json.decode(text, type=tuple[str, ...])

    rules = KeyRules(
        expires_at=row.expires_at,
        models=names(row.models),
        dialects=names(row.dialects),
        budget=row.budget,
        requests_per_minute=row.requests_per_minute,
        tokens_per_minute=row.tokens_per_minute,
        concurrent_requests=row.concurrent_requests,
    )
    return Key(
        id=row.id,
        ending=row.ending,
        label=row.label,
        account_id=row.account_id,
        account_ids=account_ids,
        rules=rules,
        created_at=row.created_at,
        disabled_at=row.disabled_at,
        spent=row.spent,
        held=row.held,
        running=row.running,
    )
