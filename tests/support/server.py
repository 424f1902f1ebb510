"""A real server in processes of its own, started by its command."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from tests.support.timeouts import TEST_TIMEOUT_SECONDS

START_TIMEOUT_SECONDS = 3 * TEST_TIMEOUT_SECONDS
"""The first server of a machine requantizes the bundled model."""

STOP_TIMEOUT_SECONDS = TEST_TIMEOUT_SECONDS

ONE_THREAD = {"DRAGOMAN_ENGINE_THREADS": "1"}
"""Several wait for each other in every step, which takes very long while other tests hold the cores."""

TWO_THREADS = {"DRAGOMAN_ENGINE_THREADS": "2"}

WORKER_PROCESS = "dragoman.server.worker"
ENGINE_PROCESS = "dragoman.engines.llama.process"
LEDGER_PROCESS = "dragoman.accounts.process.server"
"""The module of a worker's child that writes the accounts."""


class RunningServer:
    """A running `dragoman serve`."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    def children(self, module: str) -> list[int]:
        """Return the process ids of the server's children that run `module`."""
        return children_of(self.process.pid, module)

    def arguments(self, module: str) -> str:
        """Return the arguments of all children that run `module`, joined."""
        return "".join(map(arguments_of, self.children(module)))

    def running_sequences(self, model: str) -> int:
        """Return how many sequences of the model have a slot, according to the metrics."""
        metric = f'dragoman_running_sequences{{model="{model}"}}'
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=STOP_TIMEOUT_SECONDS) as response:
            for line in response.read().decode().splitlines():
                if line.startswith(metric):
                    return int(float(line.split()[1]))
        raise AssertionError("the metric is missing")

    def stop(self, signal_number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal to stop. Return the exit status."""
        self.process.send_signal(signal_number)
        return self.process.wait(STOP_TIMEOUT_SECONDS)


def children_of(process_id: int, module: str) -> list[int]:
    """Return the process ids of a process's children that run `module`."""
    return [
        int(folder.name)
        for folder in Path("/proc").iterdir()
        if folder.name.isdecimal() and _is_child(folder, process_id, module)
    ]


def arguments_of(process_id: int) -> str:
    """Return a process's arguments, which every user of the machine can read."""
    return Path(f"/proc/{process_id}/cmdline").read_text()


def _is_child(folder: Path, process_id: int, module: str) -> bool:
    try:
        parent = int(folder.joinpath("stat").read_text().rpartition(")")[2].split()[1])
        return parent == process_id and module in folder.joinpath("cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextlib.contextmanager
def running_server(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    errors: IO[str] | None = None,
    records_usage: bool = True,
) -> Iterator[RunningServer]:
    """Run `dragoman serve --port 0 ARGUMENTS`, and stop it at the end if it still runs.

    `errors` is a file for the standard error of the server and its children. Without `records_usage`, and without
    accounts, there is no ledger's process, which many tests do not need.
    """
    recording = {} if records_usage else {"DRAGOMAN_RECORD_USAGE": "false"}
    # Servers that share a database run each other's queued requests.
    with tempfile.TemporaryDirectory() as data:
        process = subprocess.Popen(
            [sys.executable, "-m", "dragoman", "serve", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "XDG_DATA_HOME": data, **ONE_THREAD, **recording, **(environment or {})},
        )
        watchdog = threading.Timer(START_TIMEOUT_SECONDS, process.kill)
        watchdog.start()
        try:
            server = RunningServer(process, _announced_url(process))
            watchdog.cancel()
            yield server
        finally:
            watchdog.cancel()
            _stop_process(process)


def _stop_process(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert process.stdout is not None
    process.stdout.close()


def _announced_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if match := re.search(r"at (https?://\S+)", line):
            return match[1]
    raise AssertionError(f"the server ended with status {process.wait()} before it printed its address")
