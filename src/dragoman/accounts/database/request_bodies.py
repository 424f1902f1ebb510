"""The table of bodies that are kept for the console. A body belongs to the account of its request's usage or hold."""

import zlib
from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, insert, select, union_all

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import accounts, holds, request_bodies, usage
from dragoman.accounts.times import DAY_MILLISECONDS
from dragoman.core.bodies import BodyRules, KeptBody

ROW_BYTES = 100
"""What a row takes up besides its contents."""

_ZLIB_LEVEL = 1
_SWEEP_BATCH = 200


class RequestBodyTable:
    """Usable from any thread and by several processes at the same time. Raises DatabaseUnavailable."""

    def __init__(self, database: Database, rules: BodyRules) -> None:
        self._database = database
        self._rules = rules

    def keep(self, bodies: Sequence[KeptBody]) -> None:
        """Store the bodies of admitted requests whose accounts are not excepted."""
        packed = [
            (body, zlib.compress(body.request, _ZLIB_LEVEL), zlib.compress(body.answer, _ZLIB_LEVEL)) for body in bodies
        ]
        with self._database.write() as connection:
            now = self._database.now(connection).wall
            wanted = self._wanted(connection, [body.request_id for body in bodies])
            rows = [
                {
                    "request_id": body.request_id,
                    "stored_at": now,
                    "bytes": ROW_BYTES + len(request) + len(answer),
                    "is_cut": int(body.is_cut),
                    "request": request,
                    "answer": answer,
                }
                for body, request, answer in packed
                if body.request_id in wanted
            ]
            if rows:
                connection.execute(insert(request_bodies), rows)

    def sweep(self) -> int:
        """Delete a batch of bodies, oldest first: those that are too old, or else those above the limit.

        Returns how many were deleted.
        """
        column = request_bodies.c
        with self._database.write() as connection:
            cutoff = self._database.now(connection).wall - round(self._rules.days * DAY_MILLISECONDS)
            oldest = select(column.request_id, column.stored_at, column.bytes).order_by(column.stored_at)
            rows = connection.execute(oldest.limit(_SWEEP_BATCH)).all()
            excess = (connection.execute(select(func.sum(column.bytes))).scalar_one() or 0) - self._rules.max_bytes
            swept = []
            for row in rows:
                if row.stored_at <= cutoff or excess > 0:
                    swept.append(row.request_id)
                    excess -= row.bytes
            connection.execute(delete(request_bodies).where(column.request_id.in_(swept)))
        return len(swept)

    def _wanted(self, connection: Connection, request_ids: Sequence[str]) -> set[str]:
        """Return those of the requests that were admitted, and whose accounts are not excepted."""
        query = union_all(
            *(
                select(table.c.request_id, accounts.c.name)
                .select_from(table.outerjoin(accounts, accounts.c.id == table.c.account_id))
                .where(table.c.request_id.in_(request_ids))
                for table in (holds, usage)
            )
        )
        found = connection.execute(query).all()
        return {row.request_id for row in found if row.name not in self._rules.excepted_accounts}


def find_body(database: Database, request_id: str) -> KeptBody | None:
    """Return what is kept of a request. None: nothing is."""
    column = request_bodies.c
    with database.read() as connection:
        row = connection.execute(select(request_bodies).where(column.request_id == request_id)).one_or_none()
    if row is None:
        return None
    request, answer = (zlib.decompress(bytes(part)) for part in (row.request, row.answer))
    return KeptBody(request_id=request_id, request=request, answer=answer, is_cut=bool(row.is_cut))


def has_body(database: Database, request_id: str) -> bool:
    """Whether something is kept of a request."""
    query = select(request_bodies.c.request_id).where(request_bodies.c.request_id == request_id)
    with database.read() as connection:
        return connection.execute(query).one_or_none() is not None


def delete_body(database: Database, request_id: str) -> bool:
    """Delete what is kept of a request. False: nothing is."""
    with database.write() as connection:
        return bool(
            connection.execute(delete(request_bodies).where(request_bodies.c.request_id == request_id)).rowcount
        )
