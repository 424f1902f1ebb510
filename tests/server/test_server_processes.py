"""Engines and workers of one server, with real processes: what starts before what is between processes."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from dragoman.server.server_processes import ServerProcesses
from dragoman.server.supervisor import ChildCommand
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


def _command(script: str) -> ChildCommand:
    return ChildCommand(
        name="test", arguments=[sys.executable, "-S", "-c", script], environment=os.environ, max_retry_seconds=0.01
    )


def _processes(engine: ChildCommand, workers: Callable[[], Sequence[ChildCommand]], wake_fd: int) -> ServerProcesses:
    return ServerProcesses(
        {0: engine},
        workers,
        lazy=(),
        wake_fd=wake_fd,
        drain_seconds=1,
        report=lambda _number, _failure: None,
        restore_folder=lambda: None,
    )


async def test_engines_start_while_the_workers_are_still_prepared(tmp_path: Path) -> None:
    started = tmp_path / "started"
    os.mkfifo(started)
    wake_fd, writer = os.pipe()

    def prepare() -> list[ChildCommand]:
        assert started.read_text() == "engine", "written by the engine, or nothing comes"
        return [_command("print('ready', flush=True); import sys; sys.stdin.read()")]

    engine = f"open({str(started)!r}, 'w').write('engine'); print('ready', flush=True); import sys; sys.stdin.read()"
    processes = _processes(_command(engine), prepare, wake_fd)
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await processes.run(on_ready=lambda: os.kill(os.getpid(), signal.SIGTERM))
    os.close(wake_fd)
    os.close(writer)


def test_a_server_imports_no_database_before_it_starts_its_engines() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, dragoman.cli.main, dragoman.server.launch; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "dragoman.server.planning" in loaded
    assert "sqlalchemy" not in loaded
