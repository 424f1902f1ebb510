"""The child's side of supervision: a child ends with its parent, and sends heartbeats on its standard output.

server/supervisor.py is the parent's side. A heartbeat is an empty line.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

HEARTBEAT_SECONDS = 1.0
"""The time between two heartbeats."""

UNLOAD_LINE = b"unload\n"
"""What the parent writes to an engine's standard input so that it ends when no request runs."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
"""From <linux/prctl.h>."""

STANDARD_INPUT, STANDARD_OUTPUT, STANDARD_ERROR = 0, 1, 2
"""Their descriptors."""


def end_with_parent() -> None:
    """Ignore SIGHUP, and on Linux have the kernel kill this process when its parent dies. Call it before other work.

    A process that is stopped, or busy loading, would not notice the end of its standard input. What it leaves behind is
    what a crash leaves behind. On other systems it must read its standard input.
    """
    # A terminal that hangs up concerns the parent, which stops its children in order.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if _is_parent_gone():  # It died before the kernel was asked.
            os._exit(0)


@contextlib.contextmanager
def orphans_adopted() -> Iterator[bool]:
    """Within the block, make grandchildren children of this process when their parent ends. Yield whether that works.

    Where it works, there are descriptors of processes (os.pidfd_open) too.
    """
    if sys.platform != "linux" or not has_process_descriptors():
        yield False
        return
    library = ctypes.CDLL(None)
    try:
        yield library.prctl(_PR_SET_CHILD_SUBREAPER, 1) == 0
    finally:
        library.prctl(_PR_SET_CHILD_SUBREAPER, 0)


def has_process_descriptors() -> bool:
    """Whether os.pidfd_open works: kernels before Linux 5.3 and some sandboxes refuse what Python was built with."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def discard_standard_output() -> None:
    """Let standard output lead nowhere: the end of the interpreter would write again what could not be written."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STANDARD_OUTPUT)
    os.close(nowhere)


def send_heartbeat() -> None:
    """Write one heartbeat. A parent that reads nothing, for example a stopped one, does not block this process."""
    with contextlib.suppress(BlockingIOError, BrokenPipeError):
        os.write(STANDARD_OUTPUT, b"\n")


def send_heartbeats_from_thread(is_working: Callable[[], bool]) -> None:
    """Send heartbeats while `is_working`, from a thread: long calls of C functions do not delay them."""
    os.set_blocking(STANDARD_OUTPUT, False)

    def send_all() -> None:
        while True:
            if is_working():
                send_heartbeat()
            time.sleep(HEARTBEAT_SECONDS)

    threading.Thread(target=send_all, name="heartbeats", daemon=True).start()


def _is_parent_gone() -> bool:
    """Whether all other ends of standard input are closed."""
    poll = select.poll()
    poll.register(STANDARD_INPUT, 0)
    return any(state & select.POLLHUP for _, state in poll.poll(0))
