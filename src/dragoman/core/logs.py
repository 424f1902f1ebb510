"""Logs on standard error: one line for each event, with its traceback if there is one. They hold no prompts and keys.

All processes of a server log in the same way. Children learn it from their environment.
"""

import logging
import os
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LOG_VARIABLE = "DRAGOMAN_PROCESS_LOG"

_KEY_ORDER = ["timestamp", "level", "event"]

_log = structlog.get_logger(__name__)


def configure(level: str, log_format: str) -> None:
    """Send the events of structlog and the libraries to standard error, from `level` on, as `text` or `json`.

    Exceptions that end a thread or the process are logged too. Children of this process call `configure_child`.
    """
    os.environ[LOG_VARIABLE] = f"{log_format} {level}"
    number = logging.getLevelNamesMapping()[level.upper()]
    common: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.format_exc_info,
    ]
    renderer: Processor = structlog.processors.JSONRenderer() if log_format == "json" else _render_text
    _configure_libraries(number, [structlog.stdlib.add_logger_name, *common], renderer)
    structlog.configure(
        processors=[*common, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def configure_child() -> None:
    """Log as the parent process does."""
    log_format, _, level = os.environ.get(LOG_VARIABLE, "text info").partition(" ")
    configure(level, log_format)


def _configure_libraries(level: int, processors: list[Processor], renderer: Processor) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=processors,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # The supervisor logs starts and stops itself.
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, level))


def _render_text(_logger: WrappedLogger, _name: str, event: EventDict) -> str:
    """Render `key=value …`. The values are escaped as Python writes them, so that a text has no line breaks."""
    ordered: Mapping[str, Any] = {key: event.pop(key) for key in _KEY_ORDER if key in event} | dict(event)
    line = " ".join(f"{key}={value!r}" for key, value in ordered.items())
    return line.replace("\r", "\\r").replace("\n", "\\n")


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
    else:
        _log.error("process_failed_unexpectedly", exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_value is not None and not isinstance(failure.exc_value, SystemExit):
        name = failure.thread.name if failure.thread else ""
        _log.error("thread_failed_unexpectedly", thread=name, exc_info=failure.exc_value)
