"""Options of the queue, and the intervals of its background loops."""

import msgspec

LEASE_SECONDS = 15
"""How long a claim is valid without renewal. After that, other processes take the job over."""

CLOCK_TOLERANCE_SECONDS = 1
"""By how much the database's clock may be set without anybody noticing."""

RENEW_SECONDS = 4.0
"""Between renewals of a process's leases."""

POLL_SECONDS = 0.25
"""Between polls for jobs that other processes submitted, cancelled or abandoned, while any job waits or runs."""

IDLE_POLL_SECONDS = 1.0
"""Between these polls while no job waits or runs anywhere. A job submitted to this process ends the pause."""

FLUSH_SECONDS = 0.05
"""Between transactions that store events."""

REMOTE_POLL_SECONDS = 0.1
"""Between polls for events of jobs that other processes run."""


class QueueOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the table [queue]."""

    priority_aging_seconds: float = 60.0
    """Waiting time for which a job gains one step of priority."""
    max_attempts: int = 3
    """A job fails after this many attempts without progress."""
    concurrency: int = 16
    """Jobs that this process runs concurrently. 0: it only accepts jobs."""
    max_queued_jobs: int = 100_000
    """Limit of waiting jobs, of all models together."""
    max_queued_jobs_per_owner: int = 25_000
    """Limit of one owner's waiting jobs. It does not hold where all callers are one owner, without keys."""
    max_queued_bytes: int = 2**30
    """Limit of the size of all waiting jobs together."""
    max_queued_bytes_per_owner: int = 2**28
    """Limit of the size of one owner's waiting jobs, as `max_queued_jobs_per_owner`."""
    client_wait_seconds: float = 600.0
    """A job whose client waits for it fails if it has not started within this time."""
    result_ttl_hours: float = 24.0
    """How long a job is kept after its end."""
    max_result_bytes: int = 2**30
    """Limit of the size of all ended jobs together. Above it, the owners with the most stored lose their oldest."""
