"""The table of stored responses. Each holds its own items and points to the response before it, so that no item is
stored twice however long a conversation becomes."""

import contextlib
import zlib
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.shares import excess_by_owner, rows_of_excess
from dragoman.accounts.database.tables import responses
from dragoman.core.responses import (
    MAX_HISTORY_BYTES,
    HistoryTooLarge,
    ResponseHistory,
    ResponseNotFound,
    ResponseRecord,
)

ROW_BYTES = 200
"""What a row takes up besides its contents."""

MAX_HISTORY = 4096
"""Responses that one may continue, one after the other."""

_DAY_MILLISECONDS = 86_400_000
_SWEEP_BATCH = 200
_ZLIB_LEVEL = 1


class ResponseTable:
    """Usable from any thread and by several processes at the same time. Raises DatabaseUnavailable."""

    def __init__(self, database: Database, *, retention_days: float, max_bytes: int) -> None:
        """Responses are kept for `retention_days`, and `max_bytes` of them together."""
        self._database = database
        self._retention_milliseconds = round(retention_days * _DAY_MILLISECONDS)
        self._max_bytes = max_bytes

    def store(self, record: ResponseRecord, owner: str) -> None:
        """Store a response unless its id is taken."""
        sent, response = (zlib.compress(part, _ZLIB_LEVEL) for part in (record.input, record.response))
        size = ROW_BYTES + len(sent) + len(response)
        self._insert(record.id, owner, previous_id=record.previous_id, bytes=size, input=sent, response=response)

    def find(self, response_id: str, owner: str) -> ResponseRecord | None:
        """Return the owner's response; None: it is not stored. Raises ResponseNotFound if it was deleted."""
        with self._database.read() as connection:
            return _find(connection, response_id, owner)

    def history(self, response_id: str, owner: str) -> ResponseHistory:
        """Return the response and those before it.

        Raises ResponseNotFound if one of them was deleted, and HistoryTooLarge.
        """
        records: list[ResponseRecord] = []
        remaining_bytes = MAX_HISTORY_BYTES
        following: str | None = response_id
        with self._database.read() as connection:
            while following is not None and len(records) < MAX_HISTORY:
                record = _find(connection, following, owner)
                if record is None:
                    return ResponseHistory(records, following)
                records.append(record)
                remaining_bytes -= record.size
                if remaining_bytes < 0:
                    raise HistoryTooLarge("previous_response_id")
                following = record.previous_id
        if following is not None:
            raise ResponseNotFound(following)
        return ResponseHistory(records)

    def delete(self, response_id: str, owner: str) -> bool:
        """Empty the owner's response. False: it is not stored, and will not be."""
        # First, so that nobody stores it in between.
        self._insert(response_id, owner, deleted=1, bytes=ROW_BYTES, input=b"", response=b"")
        return delete_response(self._database, response_id, owner)

    def sweep(self) -> int:
        """Delete a batch of responses, oldest first: those that are too old, or else those above the limit.

        Above the limit, the owners with the most stored lose their oldest. Returns how many were deleted.
        """
        column = responses.c
        with self._database.read() as connection:
            query = select(column.owner, func.sum(column.bytes).label("bytes")).group_by(column.owner)
            stored = {row.owner: int(row.bytes) for row in connection.execute(query)}
        with self._database.write() as connection:
            cutoff = self._database.now(connection).wall - self._retention_milliseconds
            swept = _oldest(connection, column.stored_at <= cutoff)
            if not swept:
                for owner, excess in excess_by_owner(stored, self._max_bytes).items():
                    swept += rows_of_excess(_oldest(connection, column.owner == owner), excess)
            connection.execute(delete(responses).where(column.id.in_([row.id for row in swept])))
        return len(swept)

    def _insert(self, response_id: str, owner: str, **values: object) -> None:
        # An equal id: it is stored already, or was deleted before.
        with contextlib.suppress(IntegrityError), self._database.write() as connection:
            now = self._database.now(connection).wall
            row = {"id": response_id, "owner": owner, "stored_at": now, "deleted": 0, **values}
            connection.execute(insert(responses).values(**row))


class StoredResponseEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A stored response in a list, without its contents."""

    id: str
    owner: str
    """The account, or the digest of the key, that has it. Empty: an open server's."""
    previous_id: str | None
    stored_at: int
    bytes: int
    """What it takes up."""


def list_responses(
    database: Database, owner: str | None = None, *, before: tuple[int, str] | None = None, limit: int = 50
) -> list[StoredResponseEntry]:
    """List stored responses, newest first: of this owner, or of all. `before`: the last one's time and id."""
    column = responses.c
    query = select(*(column[name] for name in StoredResponseEntry.__struct_fields__)).where(column.deleted == 0)
    if owner is not None:
        query = query.where(column.owner == owner)
    if before is not None:
        at, response_id = before
        is_later_id = (column.stored_at == at) & (column.id < response_id)
        query = query.where(column.stored_at <= at, (column.stored_at < at) | is_later_id)
    with database.read() as connection:
        rows = connection.execute(query.order_by(column.stored_at.desc(), column.id.desc()).limit(limit)).all()
    return [msgspec.convert(row, StoredResponseEntry, from_attributes=True) for row in rows]


def delete_response(database: Database, response_id: str, owner: str | None = None) -> bool:
    """Empty a response of this owner, or of any. False: it is not stored."""
    column = responses.c
    conditions = [column.id == response_id, column.deleted == 0]
    if owner is not None:
        conditions.append(column.owner == owner)
    values = {"deleted": 1, "bytes": ROW_BYTES, "input": b"", "response": b""}
    with database.write() as connection:
        return bool(connection.execute(update(responses).where(*conditions).values(**values)).rowcount)


def _find(connection: Connection, response_id: str, owner: str) -> ResponseRecord | None:
    column = responses.c
    query = select(column.previous_id, column.input, column.response, column.deleted)
    row = connection.execute(query.where(column.id == response_id, column.owner == owner)).one_or_none()
    if row is None:
        return None
    if row.deleted:
        raise ResponseNotFound(response_id)
    sent, response = (zlib.decompress(bytes(part)) for part in (row.input, row.response))
    return ResponseRecord(id=response_id, previous_id=row.previous_id, input=sent, response=response)


def _oldest(connection: Connection, condition: ColumnElement[bool]) -> list[Row[Any]]:
    column = responses.c
    query = select(column.id, column.bytes).where(condition).order_by(column.stored_at).limit(_SWEEP_BATCH)
    return list(connection.execute(query))
