"""Logs on standard error: one line for each event, with its traceback if there is one. They hold no prompts and keys.

All processes of a server log in the same way. Children learn it from their environment. This is the standard library's
`logging` with events for messages: structlog imports rich and attrs, which cost each process 70 ms and 5 MiB.
"""

import contextlib
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType

from dragoman.core.log_handler import StandardErrorHandler

LOG_VARIABLE = "DRAGOMAN_PROCESS_LOG"

_TRACE_FIELDS = ("trace_id", "span_id")

_ExceptionInfo = bool | BaseException | tuple[type[BaseException], BaseException, TracebackType | None] | None
"""True: the exception that is being handled."""


trace_place: ContextVar[str] = ContextVar("dragoman.trace_place", default="")
"""The place in a trace of what is done now, as the header `traceparent` of W3C's Trace Context has it; empty: none."""


class Event:
    """The message of a log record: an event's constant name, and its fields."""

    __slots__ = ("fields", "name")

    def __init__(self, name: str, fields: Mapping[str, object]) -> None:
        self.name = name
        self.fields = fields

    def __str__(self) -> str:
        return " ".join((self.name, *(f"{key}={value!r}" for key, value in self.fields.items())))


class EventLogger:
    """Logs events. Create it by `get_logger`."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, **fields: object) -> None:
        """Log what only a developer asks for."""
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Log what happens in normal operation."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log what an operator should look at."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, *, exc_info: _ExceptionInfo = None, **fields: object) -> None:
        """Log a failure, with the traceback of `exc_info`."""
        self._log(logging.ERROR, event, fields, exc_info)

    def exception(self, event: str, **fields: object) -> None:
        """Log a failure with the traceback of the exception that is being handled."""
        self._log(logging.ERROR, event, fields, exc_info=True)

    def _log(self, level: int, event: str, fields: Mapping[str, object], exc_info: _ExceptionInfo = None) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, Event(event, fields), exc_info=exc_info)


def get_logger(name: str) -> EventLogger:
    """Return the logger of a module."""
    return EventLogger(logging.getLogger(name))


_log = get_logger(__name__)


def configure(level: str, log_format: str) -> None:
    """Send the events of dragoman and the libraries to standard error, from `level` on, as `text` or `json`.

    Exceptions that end a thread or the process are logged too. Children of this process call `configure_child`.
    """
    os.environ[LOG_VARIABLE] = f"{log_format} {level}"
    number = logging.getLevelNamesMapping()[level.upper()]
    handler = _new_handler()
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    logging.basicConfig(handlers=[handler], level=number, force=True)
    # The supervisor logs starts and stops itself.
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, number))
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _new_handler() -> logging.Handler:
    try:
        return StandardErrorHandler(sys.stderr.fileno(), lambda lines: Event("log_lines_lost", {"lines": lines}))
    except (AttributeError, OSError):  # It is closed, or no file.
        return logging.StreamHandler(sys.stderr)


def configure_child() -> None:
    """Log as the parent process does."""
    log_format, _, level = os.environ.get(LOG_VARIABLE, "text info").partition(" ")
    configure(level, log_format)


@contextlib.contextmanager
def file_released() -> Iterator[None]:
    """Release the log's descriptor for the block, in which a forked child closes all that it has of its parent.

    Otherwise the log would write to whatever is opened next with the same number, and close it.
    """
    root = logging.getLogger()
    handlers = [handler for handler in root.handlers if isinstance(handler, StandardErrorHandler)]
    for handler in handlers:
        root.removeHandler(handler)
        handler.close()
    yield
    if handlers:
        configure_child()


def trace_fields() -> dict[str, str]:
    """Return what log lines of this moment show of the trace; empty: there is none."""
    place = trace_place.get()
    return dict(zip(_TRACE_FIELDS, place.split("-")[1:3], strict=True)) if place else {}


class _JsonFormatter(logging.Formatter):
    """Renders a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_entries(record, self), default=repr)


class _TextFormatter(logging.Formatter):
    """Renders `key=value …`. The values are escaped as Python writes them, so that a text has no line breaks."""

    def format(self, record: logging.LogRecord) -> str:
        line = " ".join(f"{key}={value!r}" for key, value in _entries(record, self).items())
        return line.replace("\r", "\\r").replace("\n", "\\n")


def _entries(record: logging.LogRecord, formatter: logging.Formatter) -> dict[str, object]:
    """Return what the line of a record has: those of libraries name their logger."""
    message: object = record.msg
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
    name, fields = (
        (message.name, message.fields) if isinstance(message, Event) else (record.getMessage(), {"logger": record.name})
    )
    return {
        "timestamp": time.replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "event": name,
        **fields,
        **trace_fields(),
        **({"exception": formatter.formatException(record.exc_info)} if record.exc_info else {}),
    }


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
    else:
        _log.error("process_failed_unexpectedly", exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_value is not None and not isinstance(failure.exc_value, SystemExit):
        name = failure.thread.name if failure.thread else ""
        _log.error("thread_failed_unexpectedly", thread=name, exc_info=failure.exc_value)
