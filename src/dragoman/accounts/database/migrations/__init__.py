"""Numbered steps from an empty database to the tables that the code expects.

A step and its record are one transaction, during which no other process upgrades. Released steps are never edited: a
change gets a new number.

Servers of the version before may run on the tables of the next one, so that a change of tables takes two releases: one
adds what is new (its step `requires` only the number before), a later one removes what no supported version uses. Both
versions work meanwhile, and servers are replaced one after the other.
"""

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from sqlalchemy import Connection, false, insert, inspect, select, update

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import (
    m0001_accounts,
    m0002_idempotency,
    m0003_changes,
    m0004_jobs,
    m0005_adapters,
    m0006_shares,
    m0007_fallbacks,
    m0008_console,
    m0009_responses,
    m0010_upstreams,
    m0011_six_hourly_usage,
    m0012_attempts,
    m0013_request_bodies,
    m0014_job_numbers,
)
from dragoman.accounts.database.tables import processes, schema_migrations
from dragoman.accounts.private_files import create_private_file

_UPGRADE_LOCK_ID = 0x6472_6167_6F6D_616E
"""The key of PostgreSQL's advisory lock for upgrades: "dragoman" in ASCII."""

_CREATE_MIGRATIONS_TABLE = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        number BIGINT PRIMARY KEY,
        name TEXT NOT NULL,
        applied_at BIGINT NOT NULL,
        requires BIGINT
    )
"""


class Migration(msgspec.Struct, frozen=True):
    """One step."""

    number: int
    name: str
    apply: Callable[[Connection], None]
    requires: int | None = None
    """The newest step that code must know to run on the tables afterwards. None: this one, so only newer code can."""


class AppliedMigration(msgspec.Struct, frozen=True):
    """One step that a database has a record of."""

    name: str
    requires: int | None
    """As that of Migration."""


class MigrationStatus(msgspec.Struct, frozen=True):
    """A database's migrations, as number and name, in order."""

    applied: tuple[tuple[int, str], ...]
    pending: tuple[tuple[int, str], ...]
    unknown: tuple[tuple[int, str], ...]
    """Applied by a newer version of dragoman."""


class DatabaseOutdated(Exception):
    """The database is missing, or lacks migrations that this version needs."""


class DatabaseTooNew(Exception):
    """A newer version of dragoman has upgraded the database; this one does not know its tables."""


MIGRATIONS = (
    Migration(1, "accounts", m0001_accounts.apply),
    Migration(2, "idempotency", m0002_idempotency.apply),
    Migration(3, "changes", m0003_changes.apply),
    Migration(4, "jobs", m0004_jobs.apply),
    Migration(5, "adapters", m0005_adapters.apply),
    Migration(6, "shares", m0006_shares.apply),
    Migration(7, "fallbacks", m0007_fallbacks.apply, requires=6),
    Migration(8, "console", m0008_console.apply, requires=7),
    Migration(9, "responses", m0009_responses.apply, requires=8),
    Migration(10, "upstreams", m0010_upstreams.apply, requires=8),
    Migration(11, "six_hourly_usage", m0011_six_hourly_usage.apply, requires=8),
    Migration(12, "attempts", m0012_attempts.apply, requires=8),
    Migration(13, "request_bodies", m0013_request_bodies.apply, requires=8),
    Migration(14, "job_numbers", m0014_job_numbers.apply, requires=8),
)


def migration_status(database: Database, migrations: tuple[Migration, ...] = MIGRATIONS) -> MigrationStatus:
    """Return the applied and the pending migrations. A missing file of SQLite has none."""
    applied: dict[int, AppliedMigration] = {}
    if _may_exist(database):
        with database.read() as connection:
            applied = _applied(connection)
    known = {migration.number for migration in migrations}
    return MigrationStatus(
        tuple((number, step.name) for number, step in sorted(applied.items())),
        tuple((step.number, step.name) for step in migrations if step.number not in applied),
        tuple((number, step.name) for number, step in sorted(applied.items()) if number not in known),
    )


def upgrade(database: Database, migrations: tuple[Migration, ...] = MIGRATIONS) -> list[str]:
    """Apply all pending migrations and return their names. Creates a missing file of SQLite.

    Raises DatabaseTooNew, DatabaseUnavailable, and OSError for the file.
    """
    if database.is_sqlite:
        create_private_file(Path(database.path))
    return [migration.name for migration in migrations if _apply(database, migration, migrations)]


def require_current(database: Database, migrations: tuple[Migration, ...] = MIGRATIONS) -> None:
    """Raises DatabaseOutdated or DatabaseTooNew unless this version can run on the tables."""
    require_existing(database)
    found = migration_status(database, migrations)
    if not found.applied:
        raise DatabaseOutdated("The database has no tables of dragoman. To create them, run: dragoman db upgrade")
    if found.unknown:
        with database.read() as connection:
            _reject_unknown(_applied(connection), migrations)
    if found.pending:
        missing = ", ".join(f"{number} ({name})" for number, name in found.pending)
        raise DatabaseOutdated(f"The database lacks migration {missing}. Run: dragoman db upgrade")


def require_writable(database: Database) -> None:
    """Raises DatabaseUnavailable for a current database that only can be read. Nothing is written."""
    with database.write() as connection:
        connection.execute(update(processes).where(false()).values(beat_at=0))


def require_existing(database: Database) -> None:
    """Raises DatabaseOutdated if SQLite's file is missing. PostgreSQL itself reports a database that is."""
    if not _may_exist(database):
        path = Path(database.path).absolute()
        raise DatabaseOutdated(f"There is no database at {path}. To create one, run: dragoman db upgrade")


def _may_exist(database: Database) -> bool:
    return not database.is_sqlite or Path(database.path).exists()


def _apply(database: Database, migration: Migration, migrations: tuple[Migration, ...]) -> bool:
    with database.write() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")  # Another process's upgrade may take long.
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK_ID})")
        connection.exec_driver_sql(_CREATE_MIGRATIONS_TABLE)
        if not _records_requirements(connection):
            connection.exec_driver_sql(f"ALTER TABLE {schema_migrations.name} ADD COLUMN requires BIGINT")
        applied = _applied(connection)
        _reject_unknown(applied, migrations)
        if migration.number in applied:
            return False
        migration.apply(connection)
        now = time.time_ns() // 1_000_000
        connection.execute(
            insert(schema_migrations).values(
                number=migration.number, name=migration.name, applied_at=now, requires=migration.requires
            )
        )
    return True


def _applied(connection: Connection) -> dict[int, AppliedMigration]:
    if not inspect(connection).has_table(schema_migrations.name):
        return {}
    columns = [schema_migrations.c.number, schema_migrations.c.name]
    if _records_requirements(connection):
        columns.append(schema_migrations.c.requires)
    rows = connection.execute(select(*columns)).mappings()
    return {row["number"]: AppliedMigration(row["name"], row.get("requires")) for row in rows}


def _records_requirements(connection: Connection) -> bool:
    """Whether the table of migrations has the column for that, which databases of older versions have not."""
    return any(column["name"] == "requires" for column in inspect(connection).get_columns(schema_migrations.name))


def _reject_unknown(applied: dict[int, AppliedMigration], migrations: tuple[Migration, ...]) -> None:
    """Raise DatabaseTooNew for steps that this code neither knows nor can run after."""
    known = {migration.number for migration in migrations}
    too_new = [
        f"{number} ({step.name})"
        for number, step in sorted(applied.items())
        if number not in known and (step.requires is None or step.requires > max(known))
    ]
    if too_new:
        raise DatabaseTooNew(
            f"The database has migration {', '.join(too_new)}, on whose tables this version of dragoman cannot run. "
            "Use the version that made it, or a newer one"
        )
