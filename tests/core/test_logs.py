"""What processes write to standard error. Each test has a process, since an exception that nothing catches ends one."""

import contextlib
import fcntl
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial

import pytest

from tests.support.timeouts import TEST_TIMEOUT_SECONDS

SCRIPT = """
import logging, sys, threading
from dragoman.core import logs

logs.configure("info", sys.argv[1])
logs.configure_child()
log = logs.get_logger("dragoman.test")
log.debug("not shown")
log.info("two_lines", text="first\\nsecond\\r\\u2028third", number=1)
token = logs.trace_place.set("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
log.info("of_a_trace")
logs.trace_place.reset(token)
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed")
    logging.getLogger("library").exception("a library\\nfailed")
logging.getLogger("uvicorn.error").info("not shown")
thread = threading.Thread(target=lambda: {}["key"])
thread.start()
thread.join()
raise RuntimeError("the end\\nof the process")
"""

EVENTS = [
    ("info", "two_lines"),
    ("info", "of_a_trace"),
    ("error", "failed"),
    ("error", "a library\nfailed"),
    ("error", "thread_failed_unexpectedly"),
    ("error", "process_failed_unexpectedly"),
]


def logged_lines(log_format: str) -> list[str]:
    result = subprocess.run([sys.executable, "-c", SCRIPT, log_format], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    return result.stderr.splitlines()


def test_every_record_is_one_json_object_on_one_line() -> None:
    records = [json.loads(line) for line in logged_lines("json")]
    assert [(record["level"], record["event"]) for record in records] == EVENTS
    assert all(record["timestamp"].endswith("Z") for record in records)
    assert records[0]["text"] == "first\nsecond\r\u2028third"
    places = [(record.get("trace_id"), record.get("span_id")) for record in records]
    assert places == [(None, None), ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"), *[(None, None)] * 4]
    for record, error in zip(records[2:], ["ZeroDivision", "ZeroDivision", "Key", "Runtime"], strict=True):
        assert record["exception"].startswith("Traceback (most recent call last):\n")
        assert f"{error}Error" in record["exception"]
    assert records[3]["logger"] == "library"


def test_every_record_is_one_line_of_text() -> None:
    lines = logged_lines("text")
    assert len(lines) == len(EVENTS)
    for line, (level, event) in zip(lines, EVENTS, strict=True):
        assert line.startswith("timestamp='20")
        assert f" level='{level}' event={event!r}" in line
    assert lines[1].endswith(" trace_id='0af7651916cd43dd8448eb211c80319c' span_id='b7ad6b7169203331'")
    assert all("exception='Traceback" in line or 'exception="Traceback' in line for line in lines[2:])


UNREAD_SCRIPT = """
import sys
from dragoman.core import logs

logs.configure("info", "json")
log = logs.get_logger("dragoman.test")
for number in range(2000):
    log.info("unread", number=number)
print("written", flush=True)
sys.stdin.readline()
log.error("failed", text="x" * 10_000)
"""


def _pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    return reading, writing


def _sockets() -> tuple[int, int]:
    """As systemd's journal has them."""
    reading, writing = socket.socketpair()
    return reading.detach(), writing.detach()


@pytest.mark.parametrize("channel", [_pipe, _sockets, os.openpty], ids=["pipe", "socket", "terminal"])
def test_who_does_not_read_the_log_stops_no_process_and_learns_how_much_is_missing(
    channel: Callable[[], tuple[int, int]],
) -> None:
    reading, writing = channel()
    arguments = [sys.executable, "-c", UNREAD_SCRIPT]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=writing) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert select.select([process.stdout], [], [], TEST_TIMEOUT_SECONDS)[0], "it waits for its reader"
            os.close(writing)
            received: list[bytes] = []
            while select.select([reading], [], [], 0.3)[0]:  # What is in the channel, so that the next lines have room.
                received.append(_read(reading))
            reader = threading.Thread(target=lambda: received.extend(iter(partial(_read, reading), b"")))
            reader.start()
            process.stdin.write(b"\n")
            process.stdin.close()
            assert process.wait(TEST_TIMEOUT_SECONDS) == 0
            reader.join()
        finally:
            process.kill()
    os.close(reading)
    records = []
    for line in b"".join(received).splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # The last one before the gap may be cut off.
            records.append(json.loads(line))
    *before, missing, last = records
    assert [record["number"] for record in before] == list(range(len(before)))
    assert (missing["event"], missing["lines"]) == ("log_lines_lost", 2000 - len(before))
    assert (last["event"], last["text"]) == ("failed", "x" * 10_000)


def _read(file: int) -> bytes:
    try:
        return os.read(file, 65_536)
    except OSError:  # A terminal whose last process has ended.
        return b""
