from pathlib import Path

import pytest
from sqlalchemy import select

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import DatabaseOutdated
from dragoman.accounts.database.tables import processes
from dragoman.accounts.ledger.operations import Settlement
from dragoman.accounts.process.opening import open_ledger
from dragoman.accounts.process.transport import LedgerTransport
from tests.support.accounts import LedgerHarness


def _processes(database: Database) -> int:
    with database.read() as connection:
        return len(connection.execute(select(processes)).all())


async def test_a_process_that_ends_in_order_leaves_no_journal_or_row(
    harness: LedgerHarness, tmp_path: Path, transport: type[LedgerTransport]
) -> None:
    journals = tmp_path / "journals"
    async with open_ledger(harness.database, journals, transport=transport) as accounts:
        admitted = await accounts.ledger.admit(harness.admission())
        slot = accounts.journal.open(admitted.request_id)
        slot.record(10, 0, 3)
        await accounts.ledger.settle(Settlement(admitted.request_id, 10, 0, 3, "finished"))
        slot.close()
        assert _processes(harness.database) == 1
    assert _processes(harness.database) == 0
    assert not list(journals.glob("*.journal*"))
    harness.assert_consistent()


async def test_what_a_process_leaves_open_is_settled_by_the_next(
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


async def test_tables_of_another_version_stop_the_start(empty_database_url: str, tmp_path: Path) -> None:
    database = Database(empty_database_url)
    with pytest.raises(DatabaseOutdated):
        async with open_ledger(database, tmp_path / "journals"):
            pass
    database.close()
