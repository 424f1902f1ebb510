"""What processes write to standard error. Each test has a process, since an exception that nothing catches ends one."""

import json
import subprocess
import sys

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
