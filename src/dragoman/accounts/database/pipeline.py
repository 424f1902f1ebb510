"""One round trip to PostgreSQL for several statements, on libpq's pipeline mode.

All of them are sent by one system call and answered at once. psycopg's own pipeline sends each by itself, so that the
server wakes up for each, and waits several times: it took half of the processor time of a transaction.
"""

import functools
import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from types import TracebackType
from typing import Any

import psycopg
from psycopg import pq
from psycopg.errors import error_from_result
from psycopg.waiting import WAIT_R, WAIT_RW, Ready, Wait

Row = tuple[bytes | None, ...]
"""Values in PostgreSQL's text format, in UTF-8."""

_DIGITS = 32
"""Hexadecimal ones in the name of a statement."""


class Pipeline:
    """The pipelines of one connection, one after another: `with pipeline: pipeline.add(…)`.

    The end of the block sends what was added and raises the error of the first statement that fails; PostgreSQL skips
    those behind it. The connection must use UTF-8.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.is_open = False
        self._connection = connection
        self._names: dict[str, bytes] = {}
        """Of the statements that the server has prepared, by their SQL."""
        self._preparing: dict[str, tuple[int, bytes]] = {}
        """By the SQL of a statement: the number of the result that says whether it is prepared, and its name."""
        self._sends: list[Callable[[], None]] = []
        self._results: list[pq.abc.PGresult] = []

    def add(self, sql: str, parameters: Sequence[object] = ()) -> Callable[[], list[Row]]:
        """Add a statement with a place `%s` for each parameter, and return what fetches its rows after the block.

        Parameters are texts, numbers and lists of texts. Raises psycopg.DataError for a text with a NUL.
        """
        pgconn = self._connection.pgconn
        values = [_encode(parameter) for parameter in parameters]
        name = self._names.get(sql)
        if name is None and sql in self._preparing:
            _, name = self._preparing[sql]
        elif name is None:
            query = _numbered(sql)
            # No name may stand for two statements: a pooler gives a connection with its statements to other sessions.
            name = f"dragoman_{hashlib.sha256(query).hexdigest()[:_DIGITS]}".encode()
            self._preparing[sql] = len(self._sends), name
            self._sends.append(functools.partial(pgconn.send_prepare, name, query))
        self._sends.append(functools.partial(pgconn.send_query_prepared, name, values))
        number = len(self._sends) - 1
        return lambda: _rows(self._results[number])

    def __enter__(self) -> None:
        self.is_open = True
        self._results = []

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        sends, self._sends = self._sends, []
        preparing, self._preparing = self._preparing, {}
        self.is_open = False
        if error is None and sends:
            self._run(sends, preparing)

    def _run(self, sends: Sequence[Callable[[], None]], preparing: Mapping[str, tuple[int, bytes]]) -> None:
        pgconn = self._connection.pgconn
        pgconn.enter_pipeline_mode()
        for send in sends:
            send()
        pgconn.pipeline_sync()
        self._results = results = self._connection.wait(_results(pgconn))
        pgconn.exit_pipeline_mode()
        for sql, (number, name) in preparing.items():
            if results[number].status == pq.ExecStatus.COMMAND_OK:
                self._names[sql] = name
        for result in results:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise error_from_result(result)


def _results(pgconn: pq.abc.PGconn) -> Generator[Wait, Ready | int, list[pq.abc.PGresult]]:
    """Send what libpq has not sent yet, and return a result for each statement."""
    results: list[pq.abc.PGresult] = []
    while True:
        is_sending = pgconn.flush()
        has_ended = True  # A statement's result is followed by None, and so is what has not arrived.
        while not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:
                if has_ended:
                    break
                has_ended = True
            elif result.status == pq.ExecStatus.PIPELINE_SYNC:
                return results
            else:
                has_ended = False
                results.append(result)
        if (yield WAIT_RW if is_sending else WAIT_R) & Ready.R:
            pgconn.consume_input()


def _numbered(sql: str) -> bytes:
    """Write PostgreSQL's own placeholders for those of psycopg."""
    first, *others = sql.split("%s")
    return (first + "".join(f"${number}{text}" for number, text in enumerate(others, 1))).replace("%%", "%").encode()


def _encode(parameter: object) -> bytes | None:
    if parameter is None:
        return None
    if isinstance(parameter, list):
        members = (member.replace("\\", "\\\\").replace('"', '\\"') for member in parameter)
        return _encode("{" + ",".join(f'"{member}"' for member in members) + "}")
    encoded = str(parameter).encode()
    if b"\0" in encoded:
        raise psycopg.DataError("PostgreSQL's texts cannot contain NUL bytes")
    return encoded


def _rows(result: pq.abc.PGresult) -> list[Row]:
    columns = range(result.nfields)
    return [tuple(result.get_value(row, column) for column in columns) for row in range(result.ntuples)]
