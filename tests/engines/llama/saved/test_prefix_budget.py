"""A folder of saved prefixes stays within its budget, whatever ends its processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dragoman.engines.llama.saved.prefix_file import PARTIAL_SUFFIX
from tests.support.captured_logs import capture_logs
from tests.support.saved_prefixes import files, load, open_store, save, segment, total
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

DOCUMENT = [5] * 300
OTHER = [6] * 300


def test_the_budget_holds_and_the_prefix_used_longest_ago_goes_first(tmp_path: Path) -> None:
    save(open_store(tmp_path), segment([1] * 300))
    size = total(tmp_path)
    for file in files(tmp_path):
        os.utime(file, (1, 1))
    store = open_store(tmp_path, max_bytes=3 * size + size // 2)
    for age, number in enumerate((2, 3), 2):
        known = set(files(tmp_path))
        save(store, segment([number] * 300))
        [file] = set(files(tmp_path)) - known
        os.utime(file, (age, age))
    assert load(store, [1] * 300), "reading it is using it"
    save(store, segment([4] * 300))
    assert total(tmp_path) <= 3 * size + size // 2
    assert store.budget.bytes == total(tmp_path)
    assert store.budget.evictions == 1
    reader = open_store(tmp_path)
    assert [bool(load(reader, [number] * 300)) for number in (1, 2, 3, 4)] == [True, False, True, True]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30_000)), max_size=12),
    max_bytes=st.integers(0, 60_000),
)
def test_no_folder_ever_exceeds_its_budget(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, int]], max_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("prefixes")
    store = open_store(folder, max_bytes=max_bytes)
    for number, state_bytes in sizes:
        chain = [segment([number] * 300), segment([number] * 300 + [9] * 300, start=300, state_bytes=state_bytes)]
        save(store, *chain)
        assert total(folder) <= max_bytes
        assert store.budget.bytes == total(folder)


def test_what_continues_a_prefix_is_not_saved_if_both_do_not_fit(tmp_path: Path) -> None:
    first, second = segment(DOCUMENT), segment([*DOCUMENT, *OTHER], start=300, state_bytes=5000)
    save(open_store(tmp_path, max_bytes=6000), first, second)
    assert [len(found.tokens) for found in load(open_store(tmp_path), [*DOCUMENT, *OTHER, 9])] == [300]


_WRITE_FOR_EVER = """
import itertools, sys
from pathlib import Path
from tests.support.saved_prefixes import open_store, save, segment

store = open_store(Path(sys.argv[1]))
for number in itertools.count():
    save(store, segment([number % 1000] * 300, state_bytes=20_000_000))
    print(number, flush=True)
"""


def test_a_process_killed_while_it_writes_leaves_whole_files_and_one_that_is_cleaned_away(tmp_path: Path) -> None:
    # Only a process can be killed with its file half written.
    command = [sys.executable, "-c", _WRITE_FOR_EVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"0\n"
        deadline = time.monotonic() + TEST_TIMEOUT_SECONDS
        while not list(tmp_path.rglob(f"*{PARTIAL_SUFFIX}")) and time.monotonic() < deadline:
            pass
        process.kill()
    complete = [path for path in files(tmp_path) if not path.name.endswith(PARTIAL_SUFFIX)]
    with capture_logs() as logged:
        store = open_store(tmp_path)
        assert all(load(store, [number] * 300) for number in range(len(complete)))
    assert logged == []
    for partial in tmp_path.rglob(f"*{PARTIAL_SUFFIX}"):
        os.utime(partial, (1, 1))
    open_store(tmp_path)
    assert files(tmp_path) == complete
