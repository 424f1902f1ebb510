"""Measured servers, in processes of their own."""

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tests.support.server import running_server

START_TIMEOUT_SECONDS = 120
STOP_TIMEOUT_SECONDS = 20


class Server(NamedTuple):
    """A running server."""

    url: str
    process_id: int


@contextlib.contextmanager
def dragoman_server(*arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run `dragoman serve ARGUMENTS` with its defaults, but without info logs and usage records.

    Only benchmarks.gateway measures the cost of records.
    """
    with running_server(
        *arguments,
        environment={"DRAGOMAN_LOG_LEVEL": "warning", "DRAGOMAN_RECORD_USAGE": "false", **(environment or {})},
    ) as server:
        yield Server(server.url, server.process.pid)


@contextlib.contextmanager
def module_server(module: str, *arguments: str) -> Iterator[Server]:
    """Run `python -m MODULE ARGUMENTS`, which prints its address on standard output first."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(START_TIMEOUT_SECONDS, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        watchdog.cancel()
        if not url:
            raise RuntimeError(
                f"{module} ended with status {process.wait(STOP_TIMEOUT_SECONDS)} before it printed its address"
            )
        yield Server(url, process.pid)
    finally:
        watchdog.cancel()
        stop_process(process)


def exit_on_sigterm() -> None:
    """Exit on SIGTERM as on Ctrl-C, so that no server is left running."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))


def stop_process(process: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> None:
    """Terminate a process, or kill it after a timeout."""
    process.terminate()
    try:
        process.communicate(timeout=STOP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
