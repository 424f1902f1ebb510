"""An HTTP worker with accounts, in a process of its own, that can be killed and started again at once."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from dragoman.server.accounts_location import DATABASE_VARIABLE
from dragoman.server.settings import EchoSettings, Settings
from dragoman.server.worker import DeploymentOptions, WorkerOptions
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


class KillableWorker:
    """The worker of an echo engine; its listening socket outlives it, as the server's parent process has it."""

    def __init__(self, database_url: str, journals: Path, folder: Path, tokens_per_second: float) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = "http://{}:{}".format(*self._listener.getsockname())
        self._wake_read_fd, self._wake_write_fd = os.pipe()
        self._options = WorkerOptions(
            settings=Settings(log_level="error", echo=EchoSettings(tokens_per_second)),
            key_labels={},
            admin_labels={},
            listening_fd=self._listener.fileno(),
            metrics_directory=str(folder),
            deployments=(
                DeploymentOptions(
                    name="echo", aliases=(), dialects=None, engine_socket=None, on_demand=False, architecture=None
                ),
            ),
            wake_fd=self._wake_write_fd,
            journal_dir=str(journals),
            requires_account_key=True,
        )
        self._environment = {
            **os.environ,
            DATABASE_VARIABLE: database_url,
            "PROMETHEUS_MULTIPROC_DIR": str(folder),
        }
        self._process = self._start()

    def kill(self) -> None:
        """kill -9, and start another one; what the dead one left open is settled before this returns."""
        self._process.kill()
        self._reap()
        self._process = self._start()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self._process.terminate()
        status = self._reap()
        self._listener.close()
        os.close(self._wake_read_fd)
        os.close(self._wake_write_fd)
        return status

    def _reap(self) -> int:
        status = self._process.wait(TEST_TIMEOUT_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        return status

    def _start(self) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "dragoman.server.worker", msgspec.json.encode(self._options).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
            pass_fds=(self._listener.fileno(), self._wake_write_fd),
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process


@contextlib.contextmanager
def killable_worker(database_url: str, journals: Path, *, tokens_per_second: float = 0) -> Iterator[KillableWorker]:
    """Ready; it is told to stop at the end."""
    with tempfile.TemporaryDirectory() as folder:
        worker = KillableWorker(database_url, journals, Path(folder), tokens_per_second)
        try:
            yield worker
        finally:
            worker.stop()
