from pathlib import Path

import pytest
from sqlalchemy import insert, select, update

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import DatabaseOutdated
from dragoman.accounts.database.tables import processes
from dragoman.accounts.process.journal import JournalFolder
from dragoman.accounts.process.opening import LedgerMaintenance, open_ledger
from dragoman.accounts.process.recovery import Recovery
from dragoman.accounts.process.transport import LedgerTransport
from tests.support.ledger_harness import LedgerHarness, settlement


def _count_processes(database: Database) -> int:
    with database.read() as connection:
        return len(connection.execute(select(processes)).all())


async def test_a_process_that_ends_normally_leaves_no_journal_or_row(
    harness: LedgerHarness, tmp_path: Path, transport: type[LedgerTransport]
) -> None:
    journals = tmp_path / "journals"
    async with open_ledger(harness.database, journals, transport=transport) as accounts:
        admitted = await accounts.ledger.admit(harness.admission())
        slot = accounts.journal.open(admitted.request_id)
        slot.record(10, 0, 3)
        await accounts.ledger.settle(settlement(admitted.request_id, 10, completion=3))
        slot.close()
        assert _count_processes(harness.database) == 1
    assert _count_processes(harness.database) == 0
    assert not list(journals.glob("*.journal*"))
    harness.assert_consistent()


async def test_open_requests_of_a_process_are_settled_by_the_next_one(
    harness: LedgerHarness, tmp_path: Path, transport: type[LedgerTransport]
) -> None:
    async with open_ledger(harness.database, tmp_path / "journals", transport=transport) as accounts:
        admitted = await accounts.ledger.admit(harness.admission())
        accounts.journal.open(admitted.request_id).record(10, 0, 3)
    assert harness.key.running == 1
    async with open_ledger(harness.database, tmp_path / "journals"):
        assert harness.key.running == 0
    assert harness.account.charges == 10 * 10 + 3 * 30
    harness.assert_consistent()


async def test_opening_fails_if_the_tables_are_of_another_version(empty_database_url: str, tmp_path: Path) -> None:
    database = Database(empty_database_url)
    with pytest.raises(DatabaseOutdated):
        async with open_ledger(database, tmp_path / "journals"):
            pass
    database.close()


async def test_heartbeats_go_on_while_the_folder_of_the_journals_cannot_be_restored(
    harness: LedgerHarness, tmp_path: Path
) -> None:
    folder = JournalFolder(tmp_path / "journals")
    journal, recovery = folder.create(harness.process_id), Recovery(harness.database, folder, harness.process_id)
    recovery.register()
    maintenance = LedgerMaintenance(harness.database, recovery, folder, journal)
    (tmp_path / "journals").rename(tmp_path / "elsewhere")
    (tmp_path / "journals").touch()
    with harness.database.write() as connection:
        connection.execute(insert(processes).values(id=1, machine="another", beat_at=2))
        connection.execute(update(processes).values(beat_at=1))
    with pytest.raises(NotADirectoryError):
        await maintenance.run_round()
    (tmp_path / "journals").unlink()
    with harness.database.read() as connection:
        beats = dict(connection.execute(select(processes.c.id, processes.c.beat_at)).tuples().all())
    assert beats[1] == 1 < beats[harness.process_id]
    recovery.close()
    journal.close()
