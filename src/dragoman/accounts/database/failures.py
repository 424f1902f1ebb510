"""Databases that cannot be used: which errors say so, and the log of an outage's start and end."""

import sqlite3
import time
from collections.abc import Callable

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from dragoman.core import logs

QUIET_SECONDS = 12.0
"""How long nothing may have failed when a success ends an outage. Reads often succeed while writes fail, and every
process writes its heartbeat within this time."""

_KEPT_CONNECTION_CODES = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_LOCK_NOT_AVAILABLE = "55P03"
_KEPT_CONNECTION_STATES = frozenset({"40001", "40P01", _LOCK_NOT_AVAILABLE, "57014"})
"""Serialization failure, deadlock, lock not available, and query canceled by the statement's timeout."""

_log = logs.get_logger(__name__)


class DatabaseUnavailable(Exception):
    """The database cannot be used at present; a retry may succeed.

    It is unknown whether the transaction was committed. The message is one line, without the values of statements.
    """


class RowsLocked(DatabaseUnavailable):
    """Others kept rows locked for longer than the transaction waits. It was rolled back."""


def find_outage(error: BaseException) -> DatabaseUnavailable | None:
    """Return the outage that an error of a driver, SQLAlchemy or the disk reports; None: the error has another cause.

    A database reports more than lost connections this way: it is read-only, full, locked, damaged or shutting down,
    tables are missing, or the user may not use them. None of this is a defect of a request. Errors of values and
    constraints (`Database.data_errors`), and those that a driver raises without asking the database, are not outages.
    """
    if isinstance(error, DatabaseUnavailable):
        return error
    if isinstance(error, PoolTimeout):
        return DatabaseUnavailable("all connections are in use")
    cause = error.orig if isinstance(error, DBAPIError) else error
    if cause is None or not _is_outage(cause):
        return None
    kind = RowsLocked if getattr(cause, "sqlstate", None) == _LOCK_NOT_AVAILABLE else DatabaseUnavailable
    return kind(str(cause).strip().partition("\n")[0])


def keeps_connection(error: BaseException) -> bool:
    """Whether the connection is as good as before, because another transaction was only in the way."""
    if _sqlite_code(error) is not None:
        return _sqlite_code(error) in _KEPT_CONNECTION_CODES
    return getattr(error, "sqlstate", None) in _KEPT_CONNECTION_STATES


def _is_outage(error: BaseException) -> bool:
    kinds = {kind.__name__ for kind in type(error).__mro__ if kind.__module__ in ("sqlite3", "psycopg")}
    if kinds & {"IntegrityError", "DataError"}:
        return False
    if kinds & {"OperationalError", "InterfaceError"}:
        return True
    return getattr(error, "sqlstate", None) is not None or _sqlite_code(error) is not None


def _sqlite_code(error: BaseException) -> int | None:
    """Return SQLite's primary result code, which is the low byte of the extended one."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


class OutageLog:
    """Logs when a process's database can no longer be used, and when it can again: one line each.

    Usable from any thread. Call `succeed` only while `is_active`: successes are frequent.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.is_active = False
        self._clock = clock
        self._started_at = 0.0
        self.failed_at = 0.0
        """When something last failed, on the clock."""

    def fail(self, error: object) -> None:
        """Note a failure."""
        self.failed_at = self._clock()
        if not self.is_active:
            self.is_active = True
            self._started_at = self.failed_at
            _log.error("database_unavailable", reason=str(error))

    def succeed(self) -> None:
        """Note a success. It ends the outage if nothing has failed for QUIET_SECONDS."""
        now = self._clock()
        if self.is_active and now - self.failed_at >= QUIET_SECONDS:
            self.is_active = False
            _log.warning("database_available", outage_seconds=round(self.failed_at - self._started_at))
