"""The events that the code under test logs."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from dragoman.core.logs import Event, trace_fields


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.entries: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        assert isinstance(record.msg, Event)
        own = {"event": record.msg.name, "log_level": record.levelname.lower()}
        traceback = {"exc_info": True} if record.exc_info else {}
        self.entries.append({**record.msg.fields, **own, **trace_fields(), **traceback})


@contextlib.contextmanager
def capture_logs() -> Iterator[list[dict[str, Any]]]:
    """Collect the events of dragoman, of every level, which are logged nowhere else meanwhile."""
    logger = logging.getLogger("dragoman")
    collector = _Collector()
    level, propagates = logger.level, logger.propagate
    logger.addHandler(collector)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield collector.entries
    finally:
        logger.setLevel(level)
        logger.propagate = propagates
        logger.removeHandler(collector)
