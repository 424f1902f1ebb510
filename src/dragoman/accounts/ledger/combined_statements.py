"""PostgreSQL's statements of the ledger's transactions: two that read, and one that writes.

A statement costs its processes 50 µs besides its work, and a round trip as much again, so everything that is read or
written together is one statement. Rows are passed in both directions as JSON arrays.
"""

from collections.abc import Sequence

import msgspec
from sqlalchemy import BigInteger, Table

from dragoman.accounts.database.sessions import PostgresqlSession, Session, instant
from dragoman.accounts.database.statements import Statement, key_and_sums
from dragoman.accounts.database.tables import (
    accounts,
    daily_usage,
    holds,
    hourly_usage,
    keys,
    movements,
    rate_buckets,
    usage,
)
from dragoman.accounts.ledger.rate_limits import WINDOW_SECONDS
from dragoman.accounts.ledger.rows import (
    AccountRow,
    BatchScope,
    ChangedRows,
    HoldRow,
    KeyRow,
    LoadedRows,
    MovementRow,
    PriceRow,
    UsageRow,
    WindowRow,
)

_TEXTS = "%s::text[]"
_ENTRIES = "json_array_elements(%s::json) AS entry"


def _rows(names: Sequence[str], source: str) -> str:
    """Return the query of all rows of `source` as one JSON array of arrays."""
    return f"(SELECT json_agg(json_build_array({', '.join(names)})) FROM {source})::text"


LOCK = f"""
WITH held AS MATERIALIZED (
    SELECT {", ".join(HoldRow._fields)} FROM holds WHERE request_id = ANY ({_TEXTS}) ORDER BY request_id FOR UPDATE
), asking AS MATERIALIZED (
    SELECT id, account_id FROM keys WHERE digest = ANY ({_TEXTS})
), of_keys AS MATERIALIZED (
    SELECT {", ".join(KeyRow._fields)} FROM keys
    WHERE id = ANY (ARRAY(SELECT id FROM asking UNION ALL SELECT key_id FROM held)) ORDER BY id FOR UPDATE
), of_accounts AS MATERIALIZED (
    SELECT {", ".join(AccountRow._fields)} FROM accounts
    WHERE id = ANY (ARRAY(
        SELECT account_id FROM asking UNION ALL SELECT account_id FROM held UNION ALL
        SELECT of_key.account_id FROM key_accounts of_key JOIN keys ON of_key.key_id = keys.id
        WHERE keys.digest = ANY ({_TEXTS})
    )) AND (SELECT count(*) FROM of_keys) >= 0 ORDER BY id FOR UPDATE
)
SELECT {_rows(HoldRow._fields, "held")}, {_rows(KeyRow._fields, "of_keys")}, {_rows(AccountRow._fields, "of_accounts")}
"""
"""Locks the rows in the order holds, keys, accounts, each table by its id: a query runs when its rows are asked for,
that for keys needs all holds, and that for accounts all keys. A row that another transaction has changed meanwhile is
returned as it is now."""

_READ = f"""
WITH clock AS MATERIALIZED (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS milliseconds)
SELECT milliseconds, (
    SELECT json_agg(request_id) FROM (
        SELECT request_id FROM holds WHERE request_id = ANY ({_TEXTS}) UNION ALL
        SELECT request_id FROM usage WHERE request_id = ANY ({_TEXTS})
    ) AS used
)::text, {
    _rows(
        WindowRow._fields,
        f'''(
        SELECT key_id, min(second) AS oldest, max(second) AS newest,
            sum(requests)::bigint AS requests, sum(tokens)::bigint AS tokens
        FROM rate_buckets
        WHERE key_id = ANY (ARRAY(SELECT id FROM keys WHERE digest = ANY ({_TEXTS})))
            AND second >= milliseconds / 1000 - {WINDOW_SECONDS}
        GROUP BY key_id
    ) AS windows''',
    )
}, {
    _rows(
        PriceRow._fields,
        f'''prices WHERE model = ANY ({_TEXTS}) AND valid_from <= milliseconds AND NOT EXISTS (
        SELECT FROM prices AS later WHERE later.model = prices.model AND later.valid_from <= milliseconds
            AND (later.valid_from, later.id) > (prices.valid_from, prices.id)
    )''',
    )
}, {
    _rows(
        ("of_key.key_id", "accounts.id", "accounts.name"),
        f'''key_accounts of_key JOIN accounts ON of_key.account_id = accounts.id
        JOIN keys ON of_key.key_id = keys.id WHERE keys.digest = ANY ({_TEXTS})''',
    )
} FROM clock
"""
"""Reads what the locks protect, and the time, which is that of the windows too."""


class CombinedStatements:
    """Reads and writes everything that a transaction concerns."""

    def __init__(self) -> None:
        self._lock = Statement(LOCK, ("settled", "digests", "selecting"))
        self._read = Statement(_READ, ("holds", "usage", "limited", "models", "selecting"))
        self._write = Statement(_write_all(), ChangedRows._fields)

    def read(self, session: Session, scope: BatchScope, *, begin: bool) -> LoadedRows:
        """Read and lock all rows of the scope in one round trip, see LedgerBatch.load."""
        settled, digests, admitted = list(scope.settled_ids), list(scope.key_digests), list(scope.admitted_ids)
        selecting = list(scope.selecting_digests)
        asked = admitted, admitted, digests, list(scope.models), selecting
        assert isinstance(session, PostgresqlSession), "these are PostgreSQL's statements"
        with session.pipeline():
            if begin:
                session.begin()
            locked = session.deferred_rows(self._lock, settled, digests, selecting)
            found = session.deferred_rows(self._read, *asked)
        [(held, of_keys, of_accounts)] = locked()
        [(milliseconds, used, windows, current_prices, selectable)] = found()
        return LoadedRows(
            holds=_decode_holds(held or b"[]"),
            keys=_decode_keys(of_keys or b"[]"),
            accounts=_decode_accounts(of_accounts or b"[]"),
            now=instant(int(milliseconds or b"")),
            used_request_ids=_decode_names(used or b"[]"),
            windows=_decode_windows(windows or b"[]"),
            prices=_decode_prices(current_prices or b"[]"),
            selectable=_decode_selectable(selectable or b"[]"),
        )

    def write(self, session: Session, rows: ChangedRows) -> None:
        """Write what has changed."""
        if any(rows):
            encode = msgspec.json.encode
            session.write(self._write, *(encode(each).decode() for each in rows))


_decode_holds = msgspec.json.Decoder(list[HoldRow]).decode
_decode_keys = msgspec.json.Decoder(list[KeyRow]).decode
_decode_accounts = msgspec.json.Decoder(list[AccountRow]).decode
_decode_windows = msgspec.json.Decoder(list[WindowRow]).decode
_decode_prices = msgspec.json.Decoder(list[PriceRow]).decode
_decode_names = msgspec.json.Decoder(list[str]).decode
_decode_selectable = msgspec.json.Decoder(list[tuple[int, int, str]]).decode


def _write_all() -> str:
    """Return the statement with a parameter for each field of ChangedRows, in their order."""
    parts = {
        "corrections": _update(rate_buckets, "tokens = rate_buckets.tokens + {}", ("key_id", "second")),
        "holds": _insert(holds, HoldRow._fields),
        "movements": _insert(movements, MovementRow._fields),
        "usage": _insert(usage, UsageRow._fields),
        "daily": _add_sums(daily_usage),
        "hourly": _add_sums(hourly_usage),
        "removed_holds": "DELETE FROM holds WHERE request_id = ANY (ARRAY(SELECT json_array_elements_text(%s::json)))",
        "keys": _update(keys, "spent = {}, held = {}, running = {}", ("id",)),
        "accounts": _update(accounts, "balance = {}, holds = {}, charges = {}", ("id",)),
        "buckets": _add_sums(rate_buckets),
        "old_buckets": (
            f"DELETE FROM rate_buckets USING {_ENTRIES} "
            "WHERE key_id = (entry ->> 0)::bigint AND second < (entry ->> 1)::bigint"
        ),
    }
    steps = ", ".join(f"changed_{name} AS ({parts[name]})" for name in ChangedRows._fields)
    return f"WITH {steps} SELECT"


def _insert(table: Table, names: Sequence[str]) -> str:
    values = (
        f"(entry ->> {at})::{'bigint' if isinstance(table.c[name].type, BigInteger) else 'text'}"
        for at, name in enumerate(names)
    )
    return f"INSERT INTO {table.name} ({', '.join(names)}) SELECT {', '.join(values)} FROM {_ENTRIES}"


def _add_sums(table: Table) -> str:
    """Insert rows, or add their sums to the rows with the same key."""
    key, names = key_and_sums(table)
    sums = (f"{name} = {table.name}.{name} + excluded.{name}" for name in names)
    return f"{_insert(table, (*key, *names))} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {', '.join(sums)}"


def _update(table: Table, changes: str, key: Sequence[str]) -> str:
    """Update rows; `changes` has a place for each of the first entries of a row, the last ones are the key."""
    count = changes.count("{}")
    entries = [f"(entry ->> {at})::bigint" for at in range(count + len(key))]
    where = " AND ".join(f"{table.name}.{name} = {entries[count + at]}" for at, name in enumerate(key))
    return f"UPDATE {table.name} SET {changes.format(*entries)} FROM {_ENTRIES} WHERE {where}"
