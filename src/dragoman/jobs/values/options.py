"""How the queue is used, and the intervals by which its processes deal with one another."""

from typing import NamedTuple

LEASE_SECONDS = 15
"""So long a process may be silent before others take over what it runs."""

RENEW_SECONDS = 4.0

POLL_SECONDS = 0.25
"""Between looks for what other processes submitted, cancelled or left behind."""

FLUSH_SECONDS = 0.05
"""Between transactions that store events."""

REMOTE_POLL_SECONDS = 0.1
"""Between looks for events of jobs that other processes run."""


class QueueOptions(NamedTuple):
    """The settings' table [queue]."""

    ageing_seconds: float = 60.0
    """A job gains a step of priority for every so long that it waits."""
    max_attempts: int = 3
    """A job fails that was begun so often without having come any further."""
    concurrency: int = 16
    """Jobs that this process runs at once; with 0 it only takes them in."""
    max_waiting: int = 100_000
    """Jobs that may wait, of all models together."""
    held_seconds: float = 600.0
    """A job whose client waits for it fails when it has not begun for so long."""
    result_hours: float = 24.0
    """How long a job is kept after its end."""
    result_bytes: int = 2**30
    """What all jobs that have ended may take together."""
