import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.accounts.process.journal import JournalEntry, JournalFolder
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

SLOT_BYTES = 128


def _write_and_wait(folder: Path, ready: "multiprocessing.connection.Connection") -> None:
    journal = JournalFolder(folder).create(7)
    journal.open("finished").close()
    slot = journal.open("running")
    journal.open("waiting")
    slot.record(100, 40, 1)
    slot.record(100, 40, 2)
    ready.send(True)
    ready.recv()


def test_others_read_what_a_killed_process_had_delivered(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_write_and_wait, args=(tmp_path, there))
    process.start()
    assert here.poll(TEST_TIMEOUT_SECONDS), "the process has written"
    assert here.recv()
    folder = JournalFolder(tmp_path)
    with folder.abandoned() as journals:
        assert journals == []
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(timeout=TEST_TIMEOUT_SECONDS)
    with folder.abandoned() as journals:
        assert [journal.process_id for journal in journals] == [7]
        entries = journals[0].entries()
    assert entries == {"running": JournalEntry("running", 100, 40, 2), "waiting": JournalEntry("waiting", 0, 0, 0)}


def test_the_fallback_that_answers_is_read_back_and_forgotten_with_its_request(tmp_path: Path) -> None:
    folder = JournalFolder(tmp_path)
    journal = folder.create(7)
    earlier = journal.open("earlier")
    earlier.record_fallback(2)
    earlier.close()
    journal.open("plain").record(10, 0, 1)
    slot = journal.open("fallen back")
    slot.record_fallback(1)
    slot.record(10, 4, 3)
    journal.close()
    with folder.abandoned() as journals:
        entries = journals[0].entries()
    assert entries == {
        "plain": JournalEntry("plain", 10, 0, 1),
        "fallen back": JournalEntry("fallen back", 10, 4, 3, fallback=1),
    }


def test_a_journal_with_open_slots_outlives_its_process_and_another_does_not(tmp_path: Path) -> None:
    folder = JournalFolder(tmp_path)
    first, second = folder.create(1), folder.create(2)
    first.open("a").close()
    second.open("b")
    assert first.close()
    assert not second.close()
    assert (folder.exists(1), folder.exists(2)) == (False, True)


@given(st.lists(st.tuples(*[st.integers(0, 2**53 - 1)] * 3), min_size=1, max_size=5), st.integers(0, 7))
def test_an_update_interrupted_anywhere_leaves_the_previous_one(
    tmp_path_factory: pytest.TempPathFactory, updates: list[tuple[int, int, int]], words: int
) -> None:
    """The process is killed after `words` of the update's stores."""
    updates = [(max(prompt, cached), min(prompt, cached), completion) for prompt, cached, completion in updates]
    folder = JournalFolder(tmp_path_factory.mktemp("journals"))
    journal = folder.create(1)
    slot = journal.open("request")
    snapshots = [journal.path.read_bytes()]
    for update in updates:
        slot.record(*update)
        snapshots.append(journal.path.read_bytes())
    before, after = snapshots[-2:]
    journal.close()
    # The stores in order: three words of the invalid copy, then the word that makes it valid.
    changed = [place for place in range(8, SLOT_BYTES, 8) if before[place : place + 8] != after[place : place + 8]]
    torn = bytearray(before)
    for place in [*changed, 0][:words]:
        torn[place : place + 8] = after[place : place + 8]
    whole = words > len(changed)
    journal.path.write_bytes(torn)
    with folder.abandoned() as (abandoned,):
        expected = updates[-1] if whole else ([(0, 0, 0), *updates])[-2]
        assert abandoned.entries() == {"request": JournalEntry("request", *expected)}


@given(st.binary(max_size=1000))
def test_a_file_with_any_content_is_read_without_an_error(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes
) -> None:
    folder = JournalFolder(tmp_path_factory.mktemp("journals"))
    journal = folder.create(1)
    journal.open("request")
    journal.close()
    journal.path.write_bytes(garbage)
    with folder.abandoned() as (abandoned,):
        for entry in abandoned.entries().values():
            assert entry.cached_tokens <= entry.prompt_tokens


def test_there_is_room_for_any_number_of_running_requests(tmp_path: Path) -> None:
    folder = JournalFolder(tmp_path)
    journal = folder.create(1)
    slots = [journal.open(f"request {number}") for number in range(3000)]
    for number, slot in enumerate(slots):
        slot.record(number, 0, number)
    for slot in slots[::2]:
        slot.close()
    journal.open("another")
    journal.close()
    with folder.abandoned() as (abandoned,):
        entries = abandoned.entries()
    assert set(entries) == {f"request {number}" for number in range(1, 3000, 2)} | {"another"}
    assert entries["request 2999"] == JournalEntry("request 2999", 2999, 0, 2999)


def test_the_machine_id_of_a_folder_never_changes(tmp_path: Path) -> None:
    assert JournalFolder(tmp_path / "a").machine_id == JournalFolder(tmp_path / "a").machine_id
    assert JournalFolder(tmp_path / "a").machine_id != JournalFolder(tmp_path / "b").machine_id


def test_a_deleted_journal_is_restored_and_protects_new_requests(tmp_path: Path) -> None:
    folder = JournalFolder(tmp_path / "journals")
    machine = folder.machine_id
    journal = folder.create(7)
    running = journal.open("running")
    assert not folder.restore(journal)
    shutil.rmtree(tmp_path / "journals")
    assert folder.restore(journal)
    assert not folder.restore(journal)
    assert JournalFolder(tmp_path / "journals").machine_id == machine
    running.record(10, 0, 1)
    running.close()
    journal.open("new").record(10, 0, 2)
    assert not journal.close()
    with folder.abandoned() as [abandoned]:
        assert abandoned.entries() == {"new": JournalEntry("new", 10, 0, 2)}
