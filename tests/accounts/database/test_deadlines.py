"""A PostgreSQL server that hangs: the process of one connection of a real server is stopped."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.sessions import POSTGRESQL_CLOCK, PostgresqlSession, Session
from dragoman.accounts.database.statements import Statement
from tests.support.postgresql import PostgresServer


@contextlib.contextmanager
def _stopped(process_id: int) -> Iterator[None]:
    os.kill(process_id, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process_id, signal.SIGCONT)


def _read_time_in_pipeline(session: Session) -> None:
    assert isinstance(session, PostgresqlSession)
    with session.pipeline():
        session.deferred_rows(Statement(POSTGRESQL_CLOCK, ()))


@pytest.mark.parametrize("read_time", [lambda session: session.now(), _read_time_in_pipeline])
def test_a_session_stops_waiting_for_a_server_that_hangs(
    postgresql: PostgresServer, read_time: Callable[[Session], object]
) -> None:
    database = Database(postgresql.get_uri(), busy_seconds=0.5)
    session = database.session()
    ((process_id,),) = session.rows(Statement("SELECT pg_backend_pid()", ()))
    with _stopped(process_id), pytest.raises(database.driver_error, match=r"did not answer within 1\.5 seconds"):
        read_time(session)
    with pytest.raises(database.driver_error):
        session.now()
    session.close()
    database.close()


def test_a_pooled_connection_to_a_server_that_hangs_is_replaced(postgresql: PostgresServer) -> None:
    database = Database(postgresql.get_uri(), answer_seconds=1.5)
    with database.read() as connection:
        process_id = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    with _stopped(process_id), database.read() as connection:
        assert connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one() != process_id
    database.close()


def test_a_process_that_falls_silent_in_a_transaction_loses_its_locks_before_others_give_up(
    postgresql: PostgresServer,
) -> None:
    database = Database(postgresql.get_uri(), busy_seconds=4)
    silent, other = database.session(), database.session()
    lock = Statement("SELECT pg_advisory_xact_lock(7)", ())
    silent.begin()
    silent.rows(lock)
    other.begin()
    other.rows(lock)
    other.commit()
    with pytest.raises(database.driver_error):
        silent.commit()
    for session in (silent, other):
        session.close()
    database.close()
