"""Idempotency keys in the database: the request of a key, the process that runs it, and the response.

A claim is valid while its process is listed in `processes`. Recovery removes dead processes from that list, on this
machine by their journals, on others by their heartbeats. A claim that was taken over can no longer store a response.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.shares import excess_by_owner, rows_of_excess
from dragoman.accounts.database.tables import idempotent_requests, keys, processes
from dragoman.core.idempotency import (
    Acquired,
    IdempotencyState,
    IdempotentRequest,
    InProgress,
    NotStored,
    RequestMismatch,
    StoredResponse,
)

RETENTION_MILLISECONDS = 24 * 3600 * 1000
"""How long a response is stored, from its end."""

_SWEEP_BATCH_SIZE = 500

DEFAULT_MAX_BYTES = 2**30

ROW_BYTES = 512
"""What a row takes up besides its response, with its entries in the indexes."""

_RESPONSE_COLUMNS = ("ended_at", "status", "headers", "body", "bytes")
"""Columns that are NULL while a request runs."""


class IdempotencyRow(NamedTuple):
    """An idempotency key's row; the fields are the columns, in the order of the table."""

    id: str
    fingerprint: str
    token: int
    process_id: int
    claimed_at: int
    ended_at: int | None
    status: int | None
    headers: str | None
    body: bytes | None
    job_id: str | None
    """The job of a queued request. The row is deleted together with its job."""
    owner: str | None
    """The digest of the key that sent the request."""
    bytes: int | None
    """What the row takes up once it has ended."""


def key_state(row: IdempotencyRow | None, fingerprint: str, now: int, *, alive: bool) -> IdempotencyState | None:
    """Return the state of a request whose key has this row; None: it may be claimed. `alive`: the row's process is."""
    if row is None:
        return None
    if row.job_id is not None:
        return RequestMismatch()  # Only queued requests have a job, and their fingerprints differ from all others.
    if row.ended_at is None:
        if not alive:
            return None
        return InProgress() if row.fingerprint == fingerprint else RequestMismatch()
    if row.ended_at + RETENTION_MILLISECONDS <= now:
        return None
    if row.fingerprint != fingerprint:
        return RequestMismatch()
    if row.status is None or row.headers is None or row.body is None:
        return NotStored()
    return StoredResponse(row.status, _decode_headers(row.headers), bytes(row.body))


class IdempotencyKeyTable:
    """One process's access to the keys, usable from any thread. Methods raise DatabaseUnavailable."""

    def __init__(self, database: Database, process_id: int, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        """Claims belong to `process_id`, which must stay registered (recovery.py) as long as they do.

        `max_bytes` is the limit for all responses together.
        """
        self._database = database
        self._process_id = process_id
        self._max_bytes = max_bytes

    def claim(self, request: IdempotentRequest, token: int) -> IdempotencyState:
        """Claim the request under `token`, or return its state if it cannot be claimed."""
        with self._database.read() as connection:
            found = self._key_state(connection, request, self._row(connection, request))
        # Most callers are waiting for a running request: reading first avoids a write lock.
        return found or self._claim(request, token)

    def store(self, request: IdempotentRequest, token: int, response: StoredResponse | None) -> bool:
        """Store the response, None if it is too large. Return False if the claim was lost."""
        with self._database.write() as connection:
            values: dict[str, Any] = {"ended_at": self._database.now(connection).wall, "bytes": ROW_BYTES}
            if response is not None:
                headers = msgspec.json.encode(response.headers).decode()
                size = ROW_BYTES + len(headers) + len(response.body)
                values |= {"status": response.status, "headers": headers, "body": response.body, "bytes": size}
            own_claim = idempotent_requests.c.token == token, idempotent_requests.c.ended_at.is_(None)
            statement = update(idempotent_requests).where(idempotent_requests.c.id == row_id(request), *own_claim)
            return bool(connection.execute(statement.values(**values)).rowcount)

    def release(self, request: IdempotentRequest, token: int) -> None:
        """Delete the claim, unless it has a response or was lost."""
        column = idempotent_requests.c
        claim = column.id == row_id(request), column.token == token, column.ended_at.is_(None)
        with self._database.write() as connection:
            connection.execute(delete(idempotent_requests).where(*claim))

    def sweep(self, live_tokens: Collection[int]) -> int:
        """Delete expired responses, those above the limit and abandoned claims, a bounded number of each.

        Returns how many. Above the limit, the accounts with the most stored lose their oldest responses.

        `live_tokens` are the tokens of this process's claims, including those that are just being made.
        """
        column = idempotent_requests.c
        with self._database.write() as connection:
            expired = column.ended_at <= self._database.now(connection).wall - RETENTION_MILLISECONDS
            unfinished = column.ended_at.is_(None) & column.job_id.is_(None)
            abandoned = unfinished & column.process_id.not_in(select(processes.c.id))
            orphaned = unfinished & (column.process_id == self._process_id) & column.token.not_in(live_tokens)
            swept = 0
            for condition in (expired, abandoned, orphaned):
                chosen = select(column.id).where(condition).limit(_SWEEP_BATCH_SIZE)
                # Check the condition again: a row may have been claimed since it was chosen.
                swept += connection.execute(
                    delete(idempotent_requests).where(column.id.in_(chosen), condition)
                ).rowcount
            return swept + self._evict(connection)

    def _evict(self, connection: Connection) -> int:
        """Delete the oldest responses of the accounts that take up more than their share of the limit."""
        stored: Counter[int | str | None] = Counter()
        owners: defaultdict[int | str | None, list[str]] = defaultdict(list)
        for row in _stored_by_owner(connection):
            account = row.account_id or row.owner
            stored[account] += row.bytes
            owners[account].append(row.owner)
        excess_bytes = excess_by_owner(stored, self._max_bytes)
        return sum(_delete_oldest(connection, owners[account], excess) for account, excess in excess_bytes.items())

    def _claim(self, request: IdempotentRequest, token: int) -> IdempotencyState:
        try:
            with self._database.write() as connection:
                row = self._row(connection, request, lock=True)
                found = self._key_state(connection, request, row)
                if found is not None:
                    return found
                now = self._database.now(connection).wall
                claim = {"token": token, "process_id": self._process_id, "claimed_at": now}
                values = {"fingerprint": request.fingerprint, "owner": request.owner, **claim}
                values |= dict.fromkeys(_RESPONSE_COLUMNS)
                if row is None:
                    connection.execute(insert(idempotent_requests).values(id=row_id(request), **values))
                else:
                    own_claim = idempotent_requests.c.id == row.id
                    connection.execute(update(idempotent_requests).where(own_claim).values(**values))
        except IntegrityError:
            return InProgress()  # A concurrent claim won; the next call sees its state.
        return Acquired(token)

    def _row(self, connection: Connection, request: IdempotentRequest, *, lock: bool = False) -> IdempotencyRow | None:
        query = select(idempotent_requests).where(idempotent_requests.c.id == row_id(request))
        found = connection.execute(query.with_for_update() if lock else query).one_or_none()
        return None if found is None else IdempotencyRow(*found)

    def _key_state(
        self, connection: Connection, request: IdempotentRequest, row: IdempotencyRow | None
    ) -> IdempotencyState | None:
        now = self._database.now(connection).wall
        return key_state(row, request.fingerprint, now, alive=row is not None and _is_alive(connection, row.process_id))


def _stored_by_owner(connection: Connection) -> Sequence[Row[Any]]:
    """Return the bytes of the responses of each owner, and the account of its key."""
    column = idempotent_requests.c
    size = func.coalesce(func.sum(column.bytes), 0).label("bytes")
    stored = select(column.owner, size).where(column.ended_at.is_not(None)).group_by(column.owner).subquery()
    query = select(stored.c.owner, stored.c.bytes, keys.c.account_id)
    return connection.execute(query.select_from(stored.outerjoin(keys, keys.c.digest == stored.c.owner))).all()


def _delete_oldest(connection: Connection, owners: Sequence[str], excess: int) -> int:
    """Delete the oldest responses of the owners, of at least `excess` bytes, but not more than a batch of them."""
    column = idempotent_requests.c
    query = select(column.id, column.bytes).where(column.owner.in_(owners), column.ended_at.is_not(None))
    oldest = connection.execute(query.order_by(column.ended_at).limit(_SWEEP_BATCH_SIZE))
    chosen = [row.id for row in rows_of_excess(oldest, excess)]
    statement = delete(idempotent_requests).where(column.id.in_(chosen), column.ended_at.is_not(None))
    return connection.execute(statement).rowcount


def _is_alive(connection: Connection, process_id: int) -> bool:
    return connection.execute(select(processes.c.id).where(processes.c.id == process_id)).one_or_none() is not None


def row_id(request: IdempotentRequest) -> str:
    """Return the row id of a caller's key: a digest, so that the table does not reveal the keys."""
    return hashlib.sha256(f"{request.owner}\n{request.key}".encode()).hexdigest()


_decode_headers = msgspec.json.Decoder(tuple[tuple[str, str], ...]).decode
