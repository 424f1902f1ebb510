import multiprocessing

import pytest
from sqlalchemy import Connection, inspect

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
from dragoman.accounts.database.tables import metadata
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
    with pytest.raises(DatabaseOutdated, match="dragoman db upgrade"):
        migrations.require_current(database)
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


def _create_a_table_and_fail(connection: Connection) -> None:
    connection.exec_driver_sql("CREATE TABLE half_created (id BIGINT)")
    raise RuntimeError("halfway")
