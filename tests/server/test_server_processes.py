"""Engines and workers of one server, with real processes: what starts before what is between processes."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from dragoman.server.server_processes import ServerProcesses
from dragoman.server.supervisor import ChildCommand
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


def _command(script: str) -> ChildCommand:
    return ChildCommand(
        name="test", arguments=[sys.executable, "-S", "-c", script], environment=os.environ, max_retry_seconds=0.01
    )


async def test_engines_and_workers_start_side_by_side(tmp_path: Path) -> None:
    of_engine, of_worker = str(tmp_path / "engine"), str(tmp_path / "worker")
    os.mkfifo(of_engine)
    os.mkfifo(of_worker)
    wake_fd, writer = os.pipe()
    serve = "print('ready', flush=True); import sys; sys.stdin.read()"
    # Each waits for the other before it is ready.
    engine = _command(f"open({of_engine!r}, 'w').close(); open({of_worker!r}).read(); {serve}")
    worker = _command(f"open({of_engine!r}).read(); open({of_worker!r}, 'w').close(); {serve}")
    processes = ServerProcesses(
        {0: engine},
        worker,
        worker_count=1,
        lazy=(),
        wake_fd=wake_fd,
        drain_seconds=1,
        report=lambda _number, _failure: None,
        restore_folder=lambda: None,
    )
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
