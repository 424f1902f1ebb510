import asyncio
import threading
from pathlib import Path

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.accounts.process.messages import Committed, LedgerConfig, LedgerReply
from tests.support.ledger_harness import LedgerHarness
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


def _config(database: Database) -> LedgerConfig:
    return LedgerConfig(database.url, database.busy_seconds, new_process_id())


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ledger")]


async def test_transactions_not_begun_when_it_is_killed_are_lost(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/accounts.db", busy_seconds=60)
    upgrade(database)
    replies: list[LedgerReply] = []
    with LedgerHarness(database) as harness:
        with database.write():  # The first transaction waits for this one.
            thread = await LedgerThread.start(_config(database))
            thread.commit([harness.admission()], is_retry=False)
            thread.commit([harness.admission()], is_retry=False)
            thread.kill()
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            await thread.run(replies.append)
            assert await thread.wait() == 0
        assert harness.key.running == len(replies) <= 1
        assert all(isinstance(reply, Committed) for reply in replies)
        harness.assert_consistent()
    database.close()


def test_it_ends_when_its_event_loop_has_ended(harness: LedgerHarness) -> None:
    thread = asyncio.run(LedgerThread.start(_config(harness.database)))
    thread.commit([harness.admission()], is_retry=False)
    for running in _threads():
        running.join(60)
    assert _threads() == []
    assert harness.key.running == 1


async def test_no_thread_remains_after_its_end(harness: LedgerHarness) -> None:
    thread = await LedgerThread.start(_config(harness.database))
    replies: list[LedgerReply] = []
    thread.commit([harness.admission()], is_retry=False)
    thread.finish()
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await thread.run(replies.append)
        assert len(replies) == 1
        assert await thread.wait() == 0
    assert _threads() == []
