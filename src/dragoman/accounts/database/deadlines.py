"""PostgreSQL connections whose every wait has an end, also if the server hangs and so cannot enforce its own timeouts.

A server that is stopped keeps its connections open and answers nothing: its statement_timeout does not pass, and the
system answers TCP's keepalives for it.
"""

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Dialect, Engine, event

Result = TypeVar("Result")


class DeadlineConnection(psycopg.Connection[Any]):
    """A connection that is closed when an answer takes longer than `answer_seconds`; None: however long it takes."""

    answer_seconds: float | None = None

    def wait(self, gen: Generator[Any, Any, Result], *args: Any, **kwargs: Any) -> Result:
        """Wait as psycopg does. Raises OperationalError at the deadline."""
        if self.answer_seconds is None:
            return super().wait(gen, *args, **kwargs)
        try:
            return super().wait(_until(gen, time.monotonic() + self.answer_seconds), *args, **kwargs)
        except _DeadlinePassed:
            self.pgconn.finish()
            raise psycopg.OperationalError(
                f"PostgreSQL did not answer within {self.answer_seconds:g} seconds"
            ) from None


class _DeadlinePassed(Exception):
    pass


def connect_with_deadline(engine: Engine, answer_seconds: float | None) -> None:
    """Let the engine's connections be DeadlineConnections."""

    def connect(_dialect: Dialect, _record: object, arguments: Any, parameters: Any) -> DeadlineConnection:
        connection = DeadlineConnection.connect(*arguments, **parameters)
        connection.answer_seconds = answer_seconds
        return connection

    event.listen(engine, "do_connect", connect)


def _until(steps: Generator[Any, Any, Result], deadline: float) -> Generator[Any, Any, Result]:
    """Run the steps of an operation. psycopg resumes them ten times a second, with nothing if nothing has arrived."""
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() >= deadline:
                raise _DeadlinePassed
            wanted = steps.send(ready)
    except StopIteration as end:
        result: Result = end.value
        return result
