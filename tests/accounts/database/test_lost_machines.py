"""What PostgreSQL keeps locked for a machine that has lost power: namespaces of the network, since only these can."""

import contextlib
import os
import sys
from pathlib import Path

import pytest

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.statements import Statement
from tests.support.hosts.network import Network, missing
from tests.support.hosts.postgresql import running_database
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"no network of machines can be made here: {missing()}")

LOCK = Statement("SELECT pg_advisory_xact_lock(7)", ())

CLIENT = """
import sys
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.statements import Statement

session = Database(sys.argv[1]).session()
with session.pipeline():
    session.begin()
    session.deferred_rows(Statement("SELECT pg_advisory_xact_lock(7)", ()))
with session.pipeline():
    session.deferred_rows(Statement("SELECT pg_sleep(2)", ()))
"""
"""Locks, and waits within a pipeline for an answer that will find nobody."""


def test_the_locks_of_a_machine_without_power_are_released_though_an_answer_to_it_is_under_way(tmp_path: Path) -> None:
    with Network(1) as network, running_database(network.database, durable=False) as server:
        [machine] = network.hosts
        with (tmp_path / "log").open("w") as log:
            client = machine.run([sys.executable, "-c", CLIENT, server.url], environment={**os.environ}, output=log)
        with contextlib.closing(Database(server.local_url, busy_seconds=8)) as database:
            session = database.session()
            while not session.rows(Statement("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'", ())):
                assert client.poll() is None, (tmp_path / "log").read_text()
            network.lose(machine)
            session.begin()
            session.rows(LOCK)
            session.commit()
            session.close()
        client.wait(TEST_TIMEOUT_SECONDS)
