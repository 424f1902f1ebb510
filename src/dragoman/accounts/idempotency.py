"""Idempotency keys in the database: which request a key stands for, who runs it, and the answer.

A claim is good as long as its process is listed in `processes`; recovery takes dead ones off that list, on this machine
by their journals, on others by their heartbeats. A claim that was taken over can no longer keep an answer.
"""

import hashlib
from collections.abc import Collection
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from dragoman.accounts.database import Database
from dragoman.accounts.tables import idempotent_requests, processes
from dragoman.core.idempotency import Attempt, Claimed, Different, KeptAnswer, Running, Standing, Unkept

KEPT_MILLISECONDS = 24 * 3600 * 1000
"""From the end of the answer on."""

_SWEPT_AT_ONCE = 500

_OF_AN_ANSWER = ("ended_at", "status", "headers", "body")
"""Columns that are empty while a request runs."""


class IdempotencyRow(NamedTuple):
    """What is known of a key, the columns in the order of the table."""

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
    """The queued request that the key stands for. Such a row goes when its job does."""


def standing(row: IdempotencyRow | None, fingerprint: str, now: int, *, alive: bool) -> Standing | None:
    """How a request stands whose key has this row; None: it may be claimed. `alive`: the row's process is."""
    if row is None:
        return None
    if row.job_id is not None:
        return Different()  # Queued requests are no others' equals: their fingerprints say that they are queued.
    if row.ended_at is None:
        if not alive:
            return None
        return Running() if row.fingerprint == fingerprint else Different()
    if row.ended_at + KEPT_MILLISECONDS <= now:
        return None
    if row.fingerprint != fingerprint:
        return Different()
    if row.status is None or row.headers is None or row.body is None:
        return Unkept()
    return KeptAnswer(row.status, _decode_headers(row.headers), bytes(row.body))


class IdempotencyStore:
    """One process's way to the keys; usable from any thread. Raises what database.failures names."""

    def __init__(self, database: Database, process_id: int) -> None:
        """Claims are made in the name of `process_id`, which must be registered (recovery.py) while they stand."""
        self._database = database
        self._process_id = process_id

    def claim(self, attempt: Attempt, token: int) -> Standing:
        """Claim the request under `token`, unless it stands otherwise."""
        with self._database.read() as connection:
            found = self._standing(connection, attempt, self._row(connection, attempt))
        # Most that ask are waiting: looking first keeps them out of the way of those that write.
        return found or self._claim(attempt, token)

    def keep(self, attempt: Attempt, token: int, answer: KeptAnswer | None) -> bool:
        """Keep the answer, None for one that is too large; False: the claim was lost."""
        with self._database.write() as connection:
            values: dict[str, Any] = {"ended_at": self._database.now(connection).wall}
            if answer is not None:
                headers = msgspec.json.encode(answer.headers).decode()
                values |= {"status": answer.status, "headers": headers, "body": answer.body}
            mine = idempotent_requests.c.token == token, idempotent_requests.c.ended_at.is_(None)
            kept = update(idempotent_requests).where(idempotent_requests.c.id == row_id(attempt), *mine)
            return bool(connection.execute(kept.values(**values)).rowcount)

    def release(self, attempt: Attempt, token: int) -> None:
        """Give up the claim, if it stands without an answer."""
        column = idempotent_requests.c
        claim = column.id == row_id(attempt), column.token == token, column.ended_at.is_(None)
        with self._database.write() as connection:
            connection.execute(delete(idempotent_requests).where(*claim))

    def sweep(self, held: Collection[int]) -> int:
        """Delete what was kept long enough and what is claimed for nobody; how many that were, bounded.

        `held` are the tokens of this process's claims, those included that are only being made.
        """
        column = idempotent_requests.c
        with self._database.write() as connection:
            outdated = column.ended_at <= self._database.now(connection).wall - KEPT_MILLISECONDS
            open_one = column.ended_at.is_(None) & column.job_id.is_(None)
            abandoned = open_one & column.process_id.not_in(select(processes.c.id))
            forgotten = open_one & (column.process_id == self._process_id) & column.token.not_in(held)
            swept = 0
            for condition in (outdated, abandoned, forgotten):
                chosen = select(column.id).where(condition).limit(_SWEPT_AT_ONCE)
                # The condition again: a row may have been claimed anew since it was chosen.
                swept += connection.execute(
                    delete(idempotent_requests).where(column.id.in_(chosen), condition)
                ).rowcount
            return swept

    def _claim(self, attempt: Attempt, token: int) -> Standing:
        try:
            with self._database.write() as connection:
                row = self._row(connection, attempt, lock=True)
                found = self._standing(connection, attempt, row)
                if found is not None:
                    return found
                now = self._database.now(connection).wall
                claim = {"token": token, "process_id": self._process_id, "claimed_at": now}
                values = {"fingerprint": attempt.fingerprint, **claim, **dict.fromkeys(_OF_AN_ANSWER)}
                if row is None:
                    connection.execute(insert(idempotent_requests).values(id=row_id(attempt), **values))
                else:
                    mine = idempotent_requests.c.id == row.id
                    connection.execute(update(idempotent_requests).where(mine).values(**values))
        except IntegrityError:
            return Running()  # Somebody claimed it in the same moment; what they claimed is seen at the next look.
        return Claimed(token)

    def _row(self, connection: Connection, attempt: Attempt, *, lock: bool = False) -> IdempotencyRow | None:
        query = select(idempotent_requests).where(idempotent_requests.c.id == row_id(attempt))
        found = connection.execute(query.with_for_update() if lock else query).one_or_none()
        return None if found is None else IdempotencyRow(*found)

    def _standing(self, connection: Connection, attempt: Attempt, row: IdempotencyRow | None) -> Standing | None:
        now = self._database.now(connection).wall
        return standing(row, attempt.fingerprint, now, alive=row is not None and _is_alive(connection, row.process_id))


def _is_alive(connection: Connection, process_id: int) -> bool:
    return connection.execute(select(processes.c.id).where(processes.c.id == process_id)).one_or_none() is not None


def row_id(attempt: Attempt) -> str:
    """Of a caller's key. A digest tells nobody who reads the table which keys there are."""
    return hashlib.sha256(f"{attempt.caller}\n{attempt.key}".encode()).hexdigest()


_decode_headers = msgspec.json.Decoder(tuple[tuple[str, str], ...]).decode
