"""No hold outlives its request, and no delivered token stays unpaid, however processes end."""

import contextlib
import multiprocessing
import os
import random
import signal
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import delete, insert, select, update

from dragoman.accounts.administration.accounts import create_account, deposit
from dragoman.accounts.administration.keys import KeyRules, create_key
from dragoman.accounts.administration.usage import list_usage
from dragoman.accounts.database.connections import Database, DatabaseUnavailable
from dragoman.accounts.database.tables import holds, processes
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.process.handle import LedgerProcessHandle
from dragoman.accounts.process.journal import JournalFolder
from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.accounts.process.recovery import DEAD_AFTER_ROUNDS, DEAD_AFTER_SECONDS, Recovery
from dragoman.core.context import key_digest
from tests.support.ledger_harness import COMPLETION_PRICE, PROMPT_PRICE, LedgerHarness, find_usage
from tests.support.ledger_processes import PROMPT_TOKENS, RECORD_BYTES, ServerSpec, serve
from tests.support.sqlite_files import create_sqlite_database
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

KILLS = {"sqlite": 20, "postgresql": 10}
"""benchmarks/kills.py makes 200 of a whole worker."""
MAX_RECORDS = 150

SURVIVING = 5
"""One time in so many the ledger outlives its server."""


@pytest.fixture
def folder(tmp_path: Path) -> JournalFolder:
    return JournalFolder(tmp_path / "journals")


@pytest.fixture
def recovery(database: Database, folder: JournalFolder) -> Iterator[Recovery]:
    """The recovery of a living process."""
    process_id = new_process_id()
    journal = folder.create(process_id)
    recovery = Recovery(database, folder, process_id)
    recovery.register()
    yield recovery
    recovery.close()
    journal.close()


def _open_requests(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.execute(select(holds.c.request_id)).scalars())


def _count_processes(database: Database) -> int:
    with database.read() as connection:
        return len(connection.execute(select(processes)).all())


def test_a_process_killed_at_any_point_leaves_no_hold_and_no_unpaid_token(
    kind: str, database_url: str, tmp_path: Path, folder: JournalFolder
) -> None:
    database = Database(database_url)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.ledger_processes"])
    rng = random.Random(14)
    with LedgerHarness(database, balance=10**9) as harness:
        recovery = Recovery(database, folder, harness.process_id)
        journal = folder.create(harness.process_id)
        recovery.register()
        delivered: dict[str, int] = {}
        for seed in range(KILLS[kind]):
            # A thread is killed with the rest. A process, which takes far longer to start, outlives them for a moment.
            transport = LedgerThread if seed % SURVIVING else LedgerProcessHandle
            spec = ServerSpec(database_url, tmp_path / "journals", harness.digest, seed, transport)
            delivered |= _kill_after(context, spec, rng.randint(1, MAX_RECORDS))
            recovery.recover()
            assert _open_requests(database) == []
        harness.assert_consistent()
        for request_id, tokens in delivered.items():
            used = find_usage(database, request_id)
            assert used is not None
            # The last token may have been recorded and not sent when the process was killed.
            assert tokens <= used.completion_tokens <= tokens + 1
            assert used.charge == PROMPT_TOKENS * PROMPT_PRICE + used.completion_tokens * COMPLETION_PRICE
        assert harness.key.running == 0
        assert {used.result for used in list_usage(database, limit=1000)} == {"finished", "crashed"}
        recovery.close()
        journal.close()
    database.close()


def _kill_after(context: ForkServerContext, spec: ServerSpec, records: int) -> dict[str, int]:
    """Kill a server after it sent `records` records, and return the tokens that its client received, by request."""
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=serve, args=(spec, there))
    process.start()
    there.close()
    received = b""
    while len(received) < records * RECORD_BYTES:
        assert here.poll(TEST_TIMEOUT_SECONDS)
        received += os.read(here.fileno(), RECORD_BYTES)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(timeout=TEST_TIMEOUT_SECONDS)
    while rest := os.read(here.fileno(), 65_536):
        received += rest
    here.close()
    last: dict[str, int] = {}
    for place in range(0, len(received), RECORD_BYTES):
        record = received[place : place + RECORD_BYTES].decode()
        last[record[:32]] = int(record[32:])
    return last


def test_living_processes_are_not_recovered(harness: LedgerHarness, folder: JournalFolder, recovery: Recovery) -> None:
    living = Recovery(harness.database, folder, harness.process_id)
    journal = folder.create(harness.process_id)
    living.register()
    admitted = harness.admit()
    assert recovery.recover() == 0
    assert _open_requests(harness.database) == [admitted.request_id]
    journal.open(admitted.request_id)
    assert not journal.close()
    assert recovery.recover() == 1
    assert _open_requests(harness.database) == []
    assert _count_processes(harness.database) == 1
    living.close()


def test_what_was_settled_before_the_process_died_is_not_settled_again(
    harness: LedgerHarness, folder: JournalFolder, recovery: Recovery
) -> None:
    journal = folder.create(harness.process_id)
    slot = journal.open((admitted := harness.admit()).request_id)
    slot.record(10, 0, 5)
    charge = harness.settle(admitted.request_id, 10, 0, 7).charge
    journal.close()
    assert recovery.recover() == 0
    assert harness.account.charges == charge
    harness.assert_consistent()


def test_a_process_whose_journal_is_gone_is_dead(
    harness: LedgerHarness, folder: JournalFolder, recovery: Recovery
) -> None:
    dead = Recovery(harness.database, folder, harness.process_id)
    dead.register()
    harness.admit()
    assert recovery.recover() == 1
    assert harness.account.balance == 1_000_000
    assert _count_processes(harness.database) == 1


def test_holds_without_a_registered_process_are_released(harness: LedgerHarness, recovery: Recovery) -> None:
    """The database may commit for a process that has died and was recovered in the meantime."""
    harness.use_new_key(KeyRules(concurrent_requests=1))
    harness.admit()
    assert recovery.recover() == 1
    harness.admit()
    harness.assert_consistent()


def _miss_heartbeats(database: Database, process_id: int, seconds: int) -> None:
    """Let a process of another machine have renewed its heartbeat so long ago."""
    with database.write() as connection:
        beat_at = database.now(connection).wall - seconds * 1000
        connection.execute(delete(processes).where(processes.c.id == process_id))
        connection.execute(insert(processes).values(id=process_id, machine="another", beat_at=beat_at))


def _recover_rounds(recovery: Recovery, rounds: int) -> int:
    return sum(recovery.recover() for _ in range(rounds))


def test_a_process_on_another_machine_is_dead_when_its_heartbeat_was_missed(
    harness: LedgerHarness, recovery: Recovery
) -> None:
    harness.admit()
    _miss_heartbeats(harness.database, harness.process_id, DEAD_AFTER_SECONDS - 10)
    assert _recover_rounds(recovery, 2 * DEAD_AFTER_ROUNDS) == 0
    _miss_heartbeats(harness.database, harness.process_id, DEAD_AFTER_SECONDS + 10)
    assert _recover_rounds(recovery, DEAD_AFTER_ROUNDS) == 1
    assert harness.account.balance == 1_000_000
    harness.assert_consistent()


def test_a_process_that_renews_its_heartbeat_after_an_outage_of_the_database_is_alive(
    harness: LedgerHarness, recovery: Recovery
) -> None:
    """The outage, or a jump of the database's clock, took longer than DEAD_AFTER_SECONDS: all have missed theirs."""
    admitted = harness.admit()
    for _ in range(2):
        _miss_heartbeats(harness.database, harness.process_id, DEAD_AFTER_SECONDS + 10)
        assert _recover_rounds(recovery, DEAD_AFTER_ROUNDS - 1) == 0
        _miss_heartbeats(harness.database, harness.process_id, 0)
        assert recovery.recover() == 0
    assert _open_requests(harness.database) == [admitted.request_id]
    harness.settle(admitted.request_id)
    assert harness.account.charges


def test_servers_with_journals_in_two_folders_do_not_take_each_other_for_dead(
    harness: LedgerHarness, recovery: Recovery, tmp_path: Path
) -> None:
    """On SQLite nobody looks at heartbeats, but for these two: one of them may be taking over from the other."""
    folder = JournalFolder(tmp_path / "others")
    other, journal = Recovery(harness.database, folder, harness.process_id), folder.create(harness.process_id)
    other.register()
    with harness.database.write() as connection:
        connection.execute(update(processes).values(beat_at=1))
    admitted = harness.admit()
    for _ in range(2 * DEAD_AFTER_ROUNDS):
        for each in (recovery, other):
            each.heartbeat()
            assert each.recover() == 0
    assert _open_requests(harness.database) == [admitted.request_id]
    other.close()
    journal.close()


def test_a_journal_of_another_database_is_left_to_its_own_servers_for_a_day(
    harness: LedgerHarness, folder: JournalFolder, recovery: Recovery, tmp_path: Path
) -> None:
    """Two servers of one machine have the same journal_dir."""
    dead, journal = Recovery(harness.database, folder, harness.process_id), folder.create(harness.process_id)
    dead.register()
    slot = journal.open(harness.admit().request_id)
    slot.record(10, 0, 3)
    assert not journal.close()
    with contextlib.closing(Database(create_sqlite_database(tmp_path / "another.db"))) as database:
        another = Recovery(database, folder, new_process_id())
        assert another.recover() == 0
        assert recovery.recover() == 1
        abandoned = folder.create(new_process_id())
        abandoned.open("a request of nobody")
        assert not abandoned.close()
        assert another.recover() == recovery.recover() == 0
        assert abandoned.path.exists()
        os.utime(abandoned.path, (0, 0))
        assert another.recover() == 0
        assert not abandoned.path.exists()
        another.close()
    assert harness.account.charges == 10 * PROMPT_PRICE + 3 * COMPLETION_PRICE
    harness.assert_consistent()


def test_a_heartbeat_keeps_a_process_alive_and_registers_it_again(database: Database, recovery: Recovery) -> None:
    recovery.heartbeat()
    assert _count_processes(database) == 1
    recovery.unregister()
    assert _count_processes(database) == 0
    recovery.heartbeat()
    assert _count_processes(database) == 1  # A database restored from a backup has no registration.


def test_others_are_recovered_while_one_account_is_locked(
    harness: LedgerHarness, recovery: Recovery, folder: JournalFolder
) -> None:
    if harness.database.is_sqlite:
        pytest.skip("SQLite has one lock for all")
    dead = folder.create(harness.process_id)
    Recovery(harness.database, folder, harness.process_id).register()
    locked = harness.admit()
    other = create_account(harness.database, "other").id
    deposit(harness.database, other, 1_000_000)
    free = harness.admit(key_digest=key_digest(create_key(harness.database, other).secret))
    dead.close()
    with psycopg.connect(harness.database.url) as operator:
        operator.execute("SELECT FROM accounts WHERE id = %s FOR UPDATE", (harness.account_id,))
        with pytest.raises(DatabaseUnavailable, match="locked"):
            recovery.recover()
        assert _open_requests(harness.database) == [locked.request_id]
    assert find_usage(harness.database, free.request_id) is not None
    assert recovery.recover() == 1
    assert _open_requests(harness.database) == []
    assert _count_processes(harness.database) == 1
