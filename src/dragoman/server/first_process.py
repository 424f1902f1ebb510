"""What the first process of a container does, as nobody else does it there (pid_namespaces(7)).

The kernel keeps signals from it that it has no handler for, and makes it the parent of all orphans.
"""

import contextlib
import os
import signal
from collections.abc import Callable
from types import FrameType

_FIRST_PROCESS_ID = 1

_SIGNAL_STATUS = 128
"""Added to the number of a signal that has ended a process: what shells make of it."""


def end_at_sigterm(process_id: int) -> None:
    """Let SIGTERM end this process if it is the first one, as it ends any other. `process_id` is its number."""
    if process_id == _FIRST_PROCESS_ID and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)


def orphan_reaper(process_id: int) -> Callable[[], None]:
    """Return what reaps orphans that have ended, if this is the first process. Call it from time to time.

    The ledger of a worker that was killed is such an orphan. Children that somebody waits for have the time between two
    calls to be reaped by him.
    """
    return _Reaper().reap if process_id == _FIRST_PROCESS_ID else lambda: None


class _Reaper:
    def __init__(self) -> None:
        self._seen: int | None = None
        """A process that had ended at the last call."""

    def reap(self) -> None:
        while (ended := _ended_child()) is not None and ended == self._seen:
            with contextlib.suppress(ChildProcessError):  # Somebody has done so in between.
                os.waitpid(ended, os.WNOHANG)
        self._seen = ended


def _ended_child() -> int | None:
    """Return the number of a child that waits to be reaped."""
    try:
        state = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if state is None else state.si_pid


def _end(number: int, _frame: FrameType | None) -> None:
    os._exit(_SIGNAL_STATUS + number)
