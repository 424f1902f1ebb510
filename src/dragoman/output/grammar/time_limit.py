"""Bounds the time that a grammar may take: one thread prepares all requests of a model, one after the other."""

import contextlib
import math
import time
from collections.abc import Iterator
from contextvars import ContextVar

MAX_SECONDS = 2.0
"""Of the thread's own time, which does not depend on how busy the machine is."""


class TookTooLong(Exception):
    """The time is over."""


_deadline: ContextVar[float] = ContextVar("dragoman.grammar_deadline", default=math.inf)
"""In seconds of time.thread_time."""


@contextlib.contextmanager
def limited_time(seconds: float = MAX_SECONDS) -> Iterator[None]:
    """Let `check_time` raise TookTooLong within the block once its thread has worked for so long, or its caller's time
    is over."""
    token = _deadline.set(min(_deadline.get(), time.thread_time() + seconds))
    try:
        yield
    finally:
        _deadline.reset(token)


def check_time() -> None:
    """Raise TookTooLong if the time is over. Call it in every loop whose rounds a client determines."""
    if time.thread_time() > _deadline.get():
        raise TookTooLong
