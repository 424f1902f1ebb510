"""Children that a launcher forks, with real processes: what happens when they end is between processes."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dragoman.server.child_group import start_group
from dragoman.server.supervisor import Child, ChildCommand, ChildFailed
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux adopts children of others")

RUNS_UNTIL_STDIN_CLOSES = "print('ready', flush=True); import sys; sys.stdin.read()"

FORKS_CHILDREN = """
import os, sys
descriptors = list(map(int, sys.argv[1:]))
for number in range(0, len(descriptors), 2):
    if child := os.fork():
        print(child)
        continue
    os.dup2(descriptors[number], 0), os.dup2(descriptors[number + 1], 1)
    os.closerange(3, max(descriptors) + 1)
    os.write(1, b"ready\\n")
    os._exit(len(os.read(0, 100)))
"""

ENDS_AFTER_ITS_FILES = """
import os, sys, time
from dragoman.server.worker_launcher import become_worker
launcher, (input, output) = os.getpid(), map(int, sys.argv[1:])
if not os.fork():
    become_worker(input, output, (input, output), launcher)
    os.write(1, b"orphan" if os.getppid() != launcher else b"child of the launcher")
    os._exit(0)
os.closerange(0, 100)
time.sleep(0.2)
os._exit(0)
"""

FORKS_CHILDREN_LATER = f"""
import select, time
time.sleep(0.1)
assert not select.select([0], [], [], 0)[0], "a launcher ends with its standard input"
{FORKS_CHILDREN}
"""

FORKS_ONE_THAT_FAILS = """
import os, sys
from dragoman.server.worker_launcher import launch

def serve():
    print("serving", flush=True)
    if os.read(0, 100) == b"fail":
        raise OSError(28, "disk full")
    return 7

sys.exit(launch(list(map(int, sys.argv[1:])), serve))
"""


def _command(launcher: str) -> ChildCommand:
    run = [sys.executable, "-S", "-c"]
    return ChildCommand(
        name="test",
        arguments=[*run, RUNS_UNTIL_STDIN_CLOSES],
        environment=os.environ,
        group_arguments=[*run, launcher] if launcher else (),
    )


def _open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_adopted_children_are_supervised_like_others_and_restarted_by_themselves() -> None:
    command = _command(FORKS_CHILDREN)
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        processes = await start_group(command, 3)
        killed, stopped, writing = (Child(command, process=process) for process in processes)
        await asyncio.gather(*(child.start() for child in (killed, stopped, writing)))
        first = killed.process_id
        assert [child.process_id for child in (killed, stopped, writing)] == [process.pid for process in processes]
        assert len({process.pid for process in processes}) == 3
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert await processes[0].wait() == -signal.SIGKILL
        while killed.process_id == first:  # noqa: ASYNC110 - nobody reports the restart
            await asyncio.sleep(0.01)
        await asyncio.gather(killed.stop(), stopped.stop())
        assert await processes[1].wait() == -signal.SIGTERM
        assert not stopped.is_running
        with pytest.raises(ProcessLookupError):
            processes[1].kill()
        await writing.retire(b"12345\n", TEST_TIMEOUT_SECONDS)
        assert await processes[2].wait() == 6, "it has read the line"
        await writing.stop()


@pytest.mark.parametrize(("launcher", "count"), [("", 2), (FORKS_CHILDREN, 1)])
async def test_a_single_child_and_one_without_launcher_are_not_forked(launcher: str, count: int) -> None:
    assert await start_group(_command(launcher), count) == []


@pytest.mark.parametrize(
    ("launcher", "message"),
    [
        ("import sys; sys.exit(3)", "ended with status 3"),
        ("print(1)", "has started 1 of 2 processes"),
    ],
)
async def test_a_launcher_that_fails_is_reported_and_leaves_no_descriptor(launcher: str, message: str) -> None:
    before = _open_descriptors()
    with pytest.raises(ChildFailed, match=f"^the test launcher {message}$"):
        await start_group(_command(launcher), 2)
    assert _open_descriptors() == before


async def test_a_launcher_that_cannot_be_started_is_reported() -> None:
    before = _open_descriptors()
    with pytest.raises(ChildFailed, match=r"^the test launcher cannot be started: No such file or directory$"):
        await start_group(_command("")._replace(group_arguments=["/nowhere"]), 2)
    assert _open_descriptors() == before


async def test_a_launcher_keeps_its_standard_input_until_it_has_forked() -> None:
    command = _command(FORKS_CHILDREN_LATER)
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        children = [Child(command, process=process) for process in await start_group(command, 2)]
        await asyncio.gather(*(child.start() for child in children))
        await asyncio.gather(*(child.stop() for child in children))
    assert len(children) == 2


async def test_a_worker_that_fails_harms_no_other() -> None:
    command = _command(FORKS_ONE_THAT_FAILS)._replace(
        group_arguments=[sys.executable, "-c", FORKS_ONE_THAT_FAILS], environment=os.environ
    )
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        other, failing = await start_group(command, 2)
        for process in (other, failing):
            assert process.stdout is not None
            assert await process.stdout.readline() == b"serving\n"
        assert failing.stdin is not None
        assert other.stdin is not None
        failing.stdin.write(b"fail")
        assert await failing.wait() == 1
        other.stdin.write(b"go on")
        assert await other.wait() == 7


def test_a_worker_begins_when_it_is_no_child_of_the_launcher_any_more() -> None:
    # The kernel closes a process's files first: a worker that then asks to end with its parent ends at once.
    given, output = os.open(os.devnull, os.O_RDONLY), os.pipe()
    launcher = [sys.executable, "-c", ENDS_AFTER_ITS_FILES, str(given), str(output[1])]
    subprocess.run(launcher, pass_fds=(given, output[1]), timeout=TEST_TIMEOUT_SECONDS, check=True)
    os.close(given)
    os.close(output[1])
    with open(output[0], "rb") as written:  # noqa: PTH123 - a descriptor
        assert written.read() == b"orphan"
