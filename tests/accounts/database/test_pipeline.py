import contextlib
from collections.abc import Iterator

import psycopg
import pytest

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.pipeline import Row
from dragoman.accounts.database.sessions import PostgresqlSession
from dragoman.accounts.database.statements import Statement
from tests.support.postgresql import PostgresServer

ECHO = Statement("SELECT %s::text, %s::bigint, array_to_json(%s::text[])::text", ("text", "number", "texts"))
DIVIDE = Statement("SELECT 1 / %s::bigint", ("number",))

TEXTS = ["", 'a "quoted" one', "back\\slash", "{1,2}", "NULL", "a\nb\t", "ünï ✓", "%s %% $1"]


@pytest.fixture
def session(postgresql: PostgresServer) -> Iterator[PostgresqlSession]:
    database = Database(postgresql.get_uri())
    session = database.session()
    assert isinstance(session, PostgresqlSession)
    yield session
    session.close()
    database.close()


def _echo(session: PostgresqlSession, *parameters: object) -> list[Row]:
    with session.pipeline():
        session.begin()
        echoed = session.deferred_rows(ECHO, *parameters)
        session.commit()
    return echoed()


def _divide_and_add(session: PostgresqlSession, divisor: int) -> list[Row]:
    add = Statement("INSERT INTO numbers VALUES (%s)", ("number",))
    with session.pipeline():
        session.begin()
        session.write(add, 1)
        divided = session.deferred_rows(DIVIDE, divisor)
        session.write(add, 2)
        session.commit()
    return divided()


def test_parameters_arrive_as_they_are(session: PostgresqlSession) -> None:
    for text in (*TEXTS, None):
        with session.pipeline():
            everything = session.deferred_rows(ECHO, text, -(2**63), TEXTS)
            nothing = session.deferred_rows(ECHO, None, None, [])
        [(echoed, number, listed)] = everything()
        assert (None if echoed is None else echoed.decode(), number) == (text, b"-9223372036854775808")
        assert session.rows(Statement("SELECT %s::json", ("listed",)), (listed or b"").decode()) == [(TEXTS,)]
        assert nothing() == [(None, None, b"[]")]


def test_a_failed_statement_is_raised_and_the_next_pipeline_works(session: PostgresqlSession) -> None:
    session.write(Statement("CREATE TEMPORARY TABLE numbers (number bigint)", ()))
    for _ in range(10):  # psycopg prepares a statement that it has seen five times.
        session.now()
    session.begin()
    session.commit()
    with pytest.raises(psycopg.errors.DivisionByZero):
        _divide_and_add(session, 0)
    session.rollback()
    assert _divide_and_add(session, 1) == [(b"1",)]
    assert session.rows(Statement("SELECT number FROM numbers", ())) == [(1,), (2,)]


def test_a_text_that_postgresql_cannot_have_is_refused_before_anything_is_sent(session: PostgresqlSession) -> None:
    for parameters in (("\0", 1, []), ("", 1, ["a\0"])):
        with pytest.raises(psycopg.DataError):
            _echo(session, *parameters)
    assert _echo(session, "a", 1, []) == [(b"a", b"1", b"[]")]


def test_what_is_longer_than_all_buffers_passes_in_both_directions(session: PostgresqlSession) -> None:
    long = "x" * 3_000_000
    with session.pipeline():
        answers = [session.deferred_rows(ECHO, long, number, []) for number in range(4)]
    assert [len(row[0] or b"") for answer in answers for row in answer()] == [len(long)] * 4


def test_a_statement_has_the_same_name_in_every_session(postgresql: PostgresServer, session: PostgresqlSession) -> None:
    """A pooler may give one session's connection to another, which must not find another statement by its name."""
    database = Database(postgresql.get_uri())
    with contextlib.closing(database), contextlib.closing(database.session()) as other:
        assert isinstance(other, PostgresqlSession)
        _echo(session, "a", 1, [])
        with other.pipeline():
            other.deferred_rows(DIVIDE, 1)
            other.deferred_rows(DIVIDE, 1)
        _echo(other, "a", 1, [])
        query = Statement("SELECT statement, name FROM pg_prepared_statements WHERE name LIKE 'dragoman%%'", ())
        named, named_other = dict(session.rows(query)), dict(other.rows(query))
    assert named.items() <= named_other.items()
    assert len(named_other) == len(named) + 1
