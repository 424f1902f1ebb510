"""Supervised children, with real processes."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable

import pytest

from dragoman.server.supervisor import Child, ChildCommand, ChildFailed, StartFailure
from tests.support.captured_logs import capture_logs
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

RUNS_UNTIL_STDIN_CLOSES = "print('ready', flush=True); import sys; sys.stdin.read()"


STOPS_ITSELF = "print('ready', flush=True); import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"


def _child(
    script: str,
    report: Callable[[StartFailure | None], None] | None = None,
    *,
    on_demand: bool = False,
    wake_seconds: float = 30.0,
) -> Child:
    command = ChildCommand(
        name="test",
        arguments=[sys.executable, "-c", script],
        environment=os.environ,
        on_demand=on_demand,
        heartbeat_timeout_seconds=0.2 if script == STOPS_ITSELF else None,
        max_retry_seconds=0.01,
        wake_seconds=wake_seconds,
    )
    return Child(command, report)


async def test_a_child_that_exits_is_restarted() -> None:
    child = _child(RUNS_UNTIL_STDIN_CLOSES)
    await child.start()
    first = child.process_id
    assert first is not None
    os.kill(first, signal.SIGKILL)
    second = await asyncio.wait_for(_other_process(child, first), TEST_TIMEOUT_SECONDS)
    assert second != first
    await child.stop()


async def test_a_child_without_heartbeats_is_replaced() -> None:
    child = _child(STOPS_ITSELF)
    await child.start()
    first = child.process_id
    assert first is not None
    second = await asyncio.wait_for(_other_process(child, first), TEST_TIMEOUT_SECONDS)
    assert second != first
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    await child.stop()


async def test_a_child_that_the_system_does_not_start_is_reported() -> None:
    child = Child(ChildCommand(name="test", arguments=["/nowhere"], environment=os.environ))
    with pytest.raises(ChildFailed, match=r"^the test process cannot be started: No such file or directory$"):
        await child.start()


async def test_a_child_that_cannot_start_is_tried_again_with_pauses_and_only_on_demand() -> None:
    reports: asyncio.Queue[StartFailure | None] = asyncio.Queue()
    child = _child("print('failed the model is upside down', flush=True)", reports.put_nowait, on_demand=True)
    child.start_inactive()
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        for attempt in (1, 2):
            child.wake()
            assert await reports.get() == StartFailure("the model is upside down", attempt, 0.01)
            assert reports.empty(), "nobody asks for it"
            child.wake()
            assert await reports.get() == StartFailure("the model is upside down", attempt, None), "it is tried again"
    await child.stop()


@pytest.mark.parametrize(("wake_seconds", "is_restarted"), [(0.01, False), (30.0, True)])
async def test_only_a_wake_shortly_before_the_exit_of_an_idle_child_starts_it_again(
    wake_seconds: float, is_restarted: bool
) -> None:
    ends_when_told = "print('ready', flush=True); import sys; sys.stdin.readline()"
    child = _child(ends_when_told, on_demand=True, wake_seconds=wake_seconds)
    await child.start()
    first = child.process_id
    assert first is not None
    child.wake()  # from a worker that is not connected yet
    await asyncio.sleep(0.05)
    with capture_logs() as logs:
        child.send(b"unload\n")
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            if not is_restarted:
                while all(log["event"] != "child_idle" for log in logs):
                    await asyncio.to_thread(os.sched_yield)
                for _ in range(100):
                    await asyncio.to_thread(os.sched_yield)
                assert (child.process_id, child.is_running) == (first, False)
                child.wake()
            assert await _other_process(child, first) != first
    await child.stop()


async def test_the_reason_of_a_failed_start_is_reported() -> None:
    with pytest.raises(ChildFailed, match=r"^the model is upside down$"):
        await _child("print('failed the model is upside down', flush=True)").start()


@pytest.mark.parametrize(
    ("script", "how"),
    [("import sys; sys.exit(3)", "status 3"), ("import os; os.abort()", "signal SIGABRT")],
)
async def test_a_child_that_exits_before_it_is_ready_is_reported(script: str, how: str) -> None:
    with pytest.raises(ChildFailed, match=f"the test process ended with {how} before it was ready"):
        await _child(script).start()


async def test_a_stopped_child_stays_stopped() -> None:
    child = _child(RUNS_UNTIL_STDIN_CLOSES)
    await child.start()
    await child.stop()
    assert child.process_id is not None
    with pytest.raises(ProcessLookupError):
        os.kill(child.process_id, 0)


async def test_a_child_that_ignores_sigterm_is_killed() -> None:
    child = _child(
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + RUNS_UNTIL_STDIN_CLOSES + "; signal.pause()"
    )
    await child.start()
    # The child ignores SIGTERM and its standard input stays open, so only SIGKILL after the grace period stops it.
    await child.stop(grace_seconds=-4.9)
    assert child.process_id is not None
    with pytest.raises(ProcessLookupError):
        os.kill(child.process_id, 0)


async def test_a_reply_that_comes_too_late_is_not_that_of_the_next_request() -> None:
    child = _child(
        "import sys; print('ready', flush=True); first, second = sys.stdin.readline(), sys.stdin.readline(); "
        "print('to ' + first + 'to ' + second, end='', flush=True); sys.stdin.read()"
    )
    await child.start()
    command = ChildCommand(name="test", arguments=[], environment=os.environ)
    with pytest.raises(TimeoutError):
        await child.request(command, b"one\n", 0.01)
    assert await child.request(command, b"two\n", TEST_TIMEOUT_SECONDS) == "to two"
    await child.stop()


class _EndingProcess:
    """Ends at the moment when it is killed for not ending."""

    pid, returncode, stdin = 0, None, None

    def __init__(self) -> None:
        self.stdout = asyncio.StreamReader()
        self.stdout.feed_data(b"ready\n")
        self._ended = asyncio.Event()

    def terminate(self) -> None:
        """Go on."""

    def kill(self) -> None:
        self._ended.set()
        self.stdout.feed_eof()
        raise ProcessLookupError

    async def wait(self) -> int:
        await self._ended.wait()
        return 0


async def test_a_child_that_ends_as_it_is_killed_is_stopped() -> None:
    command = ChildCommand(name="test", arguments=[], environment=os.environ)
    child = Child(command, process=_EndingProcess())
    await child.start()
    await child.stop(grace_seconds=-4.99)


async def _other_process(child: Child, first: int) -> int:
    """Return the id of the process that replaces `first`."""
    while (process_id := child.process_id) in (None, first):
        await asyncio.to_thread(os.sched_yield)
    assert process_id is not None
    return process_id
