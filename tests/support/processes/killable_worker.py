"""An HTTP worker with accounts in a process of its own that can be killed and restarted."""

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
from dragoman.server.worker_options import DeploymentOptions, EchoOptions, WorkerOptions
from tests.support.server import WORKER_PROCESS
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


class KillableWorker:
    """A worker with an echo engine. Its listening socket outlives it, like the one of the server's parent process."""

    def __init__(self, database_url: str, journals: Path, folder: Path, tokens_per_second: float) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = "http://{}:{}".format(*self._listener.getsockname())
        self._wake_read_fd, self._wake_write_fd = os.pipe()
        self._options = WorkerOptions(
            settings=Settings(log_level="error"),
            key_labels={},
            key_groups={},
            admin_labels={},
            listening_fd=self._listener.fileno(),
            metrics_directory=str(folder),
            deployments=(
                DeploymentOptions(
                    name="echo",
                    aliases=(),
                    dialects=None,
                    engines=(EchoOptions(echo=EchoSettings(tokens_per_second)),),
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
        """Kill the worker with SIGKILL and start another one, which first settles the open requests of the dead one."""
        self._process.kill()
        self._reap()
        self._process = self._start()

    def stop(self) -> int:
        """Stop the worker with SIGTERM. Returns its exit status."""
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
            [sys.executable, "-m", WORKER_PROCESS, msgspec.json.encode(self._options).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
            pass_fds=(self._listener.fileno(), self._wake_write_fd),
        )
        assert process.stdout is not None
        assert next(line for line in process.stdout if line.strip()) == "ready\n", "after heartbeats"
        return process


@contextlib.contextmanager
def killable_worker(database_url: str, journals: Path, *, tokens_per_second: float = 0) -> Iterator[KillableWorker]:
    """Start a worker, wait until it is ready, and stop it at the end."""
    with tempfile.TemporaryDirectory() as folder:
        worker = KillableWorker(database_url, journals, Path(folder), tokens_per_second)
        try:
            yield worker
        finally:
            worker.stop()
