import multiprocessing

import pytest
from sqlalchemy import Connection, insert, inspect, select

from dragoman.accounts.administration.consistency import find_discrepancies
from dragoman.accounts.administration.usage import list_usage
from dragoman.accounts.database import migrations
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import (
    MIGRATIONS,
    DatabaseOutdated,
    DatabaseTooNew,
    Migration,
    migration_status,
    upgrade,
)
from dragoman.accounts.database.tables import jobs, metadata
from tests.support.ledger_harness import LedgerHarness
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

NAMES = tuple((migration.number, migration.name) for migration in MIGRATIONS)


def _upgrade(url: str, barrier: "multiprocessing.synchronize.Barrier") -> None:
    database = Database(url)
    barrier.wait(timeout=TEST_TIMEOUT_SECONDS)
    upgrade(database)
    database.close()


def test_an_empty_database_is_upgraded_once(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    assert migration_status(database).pending == NAMES
    with pytest.raises(DatabaseOutdated, match=r"There is no database at|has no tables of dragoman"):
        migrations.require_current(database)
    upgrade(database, MIGRATIONS[:-1])
    with pytest.raises(DatabaseOutdated, match=rf"lacks migration {NAMES[-1][0]} \(.*Run: dragoman db upgrade"):
        migrations.require_current(database)
    assert upgrade(database) == [NAMES[-1][1]]
    database.close()


def test_all_steps_are_applied_once(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    assert upgrade(database) == [name for _, name in NAMES]
    assert upgrade(database) == []
    assert migration_status(database).applied == NAMES
    migrations.require_current(database)
    database.close()


def test_concurrent_upgrades_do_not_interfere(empty_database_url: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(3)
    processes = [spawn.Process(target=_upgrade, args=(empty_database_url, barrier)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=TEST_TIMEOUT_SECONDS)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    database = Database(empty_database_url)
    assert migration_status(database).applied == NAMES
    database.close()


def test_the_migrations_create_the_tables_that_the_code_expects(database: Database) -> None:
    with database.read() as connection:
        inspector = inspect(connection)
        assert set(inspector.get_table_names()) == set(metadata.tables)
        for table in metadata.tables.values():
            columns = [(column["name"], column["nullable"]) for column in inspector.get_columns(table.name)]
            keys = {column.name for column in table.primary_key}
            # SQLite reports primary keys as nullable, though NULL is never stored.
            created_columns = [(name, nullable and name not in keys) for name, nullable in columns]
            assert created_columns == [(column.name, column.nullable) for column in table.columns]


def test_the_step_that_renumbers_jobs_keeps_them_and_their_indexes(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    upgrade(database, MIGRATIONS[:13])
    row = {"number": 7, "id": "job_1", "request_id": "1", "owner": "", "dialect": "openai", "model": "m"}
    row |= {"priority": 0, "round": 0, "due": 0, "state": "queued", "submitted_at": 1}
    counts = {"prompt_tokens": 1, "most_completion_tokens": 1, "bytes": 1}
    with database.write() as connection:
        connection.execute(insert(jobs).values(**row, **counts))
    before = _indexes_of_jobs(database)
    assert upgrade(database, MIGRATIONS[:14]) == ["job_numbers"]
    with database.read() as connection:
        [kept] = connection.execute(select(jobs)).all()
    assert {name: kept._mapping[name] for name in row} == row
    assert _indexes_of_jobs(database) == before
    database.close()


def _indexes_of_jobs(database: Database) -> list[tuple[str | None, list[str | None]]]:
    with database.read() as connection:
        found = inspect(connection).get_indexes("jobs")
    return sorted((index["name"], index["column_names"]) for index in found)


def test_a_database_of_a_newer_version_is_not_changed(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    future = (*MIGRATIONS, Migration(9999, "from the future", _do_nothing))
    upgrade(database)
    assert upgrade(database, future) == ["from the future"]
    assert migration_status(database).unknown == ((9999, "from the future"),)
    for refused in (upgrade, migrations.require_current):
        with pytest.raises(DatabaseTooNew, match=r"9999 \(from the future\)"):
            refused(database)
    database.close()


def test_this_version_runs_on_the_tables_of_the_next_one_if_they_only_have_more(database_url: str) -> None:
    database = Database(database_url)
    following = Migration(9999, "more", _add_a_table_and_a_column, requires=MIGRATIONS[-1].number)
    upgrade(database, (*MIGRATIONS, following))
    migrations.require_current(database)
    assert upgrade(database) == []
    with LedgerHarness(database) as harness:
        harness.run_requests(3)
        assert len(list_usage(database)) == 3
    assert find_discrepancies(database) == []
    with database.write() as connection:
        connection.exec_driver_sql("DROP TABLE following")
        connection.exec_driver_sql("ALTER TABLE accounts DROP COLUMN following")
        connection.exec_driver_sql("DELETE FROM schema_migrations WHERE number = 9999")
    database.close()


def test_the_version_before_the_last_one_does_not_run_on_tables_that_lack_what_it_uses(
    empty_database_url: str,
) -> None:
    database = Database(empty_database_url)
    newest = MIGRATIONS[-1].number
    steps = (
        Migration(9998, "more", _do_nothing, requires=newest),
        Migration(9999, "less", _do_nothing, requires=9998),
    )
    upgrade(database, (*MIGRATIONS, *steps))
    migrations.require_current(database, (*MIGRATIONS, steps[0]))
    with pytest.raises(DatabaseTooNew, match=r"migration 9999 \(less\), on whose tables"):
        migrations.require_current(database)
    database.close()


def test_databases_without_a_record_of_what_steps_require_get_it_with_the_next_step(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    upgrade(database)
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE schema_migrations DROP COLUMN requires")
    migrations.require_current(database)
    following = Migration(9999, "more", _do_nothing, requires=MIGRATIONS[-1].number)
    assert upgrade(database, (*MIGRATIONS, following)) == ["more"]
    migrations.require_current(database)
    database.close()


def test_a_step_that_fails_leaves_nothing_behind(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    upgrade(database)
    broken = (*MIGRATIONS, Migration(9999, "broken", _create_a_table_and_fail))
    with pytest.raises(RuntimeError, match="halfway"):
        upgrade(database, broken)
    with database.read() as connection:
        assert not inspect(connection).has_table("half_created")
    assert migration_status(database, broken).pending == ((9999, "broken"),)
    database.close()


def _do_nothing(_connection: Connection) -> None:
    pass


def _add_a_table_and_a_column(connection: Connection) -> None:
    connection.exec_driver_sql("CREATE TABLE following (id BIGINT)")
    connection.exec_driver_sql("ALTER TABLE accounts ADD COLUMN following TEXT")


def _create_a_table_and_fail(connection: Connection) -> None:
    connection.exec_driver_sql("CREATE TABLE half_created (id BIGINT)")
    raise RuntimeError("halfway")
