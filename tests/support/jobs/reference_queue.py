"""The rule of jobs/storage/fair_queue.py as a model without a database."""

from collections.abc import Iterable

import msgspec


class ReferenceJob(msgspec.Struct, kw_only=True):
    """A job that waits or has waited."""

    number: int
    owner: str
    priority: int
    due: int
    round: int
    is_waiting: bool = True
    has_run: bool = False


class ReferenceQueue:
    """All jobs of one model, including those that no longer wait."""

    def __init__(self) -> None:
        self.jobs: list[ReferenceJob] = []

    def submit(self, number: int, owner: str, priority: int, due: int, *, has_run: bool = False) -> ReferenceJob:
        """Add a job. Its number must be higher than all others."""
        same_priority = [job for job in self.jobs if job.priority == priority]
        served = min(
            (job.round for job in same_priority if job.is_waiting),
            default=max((job.round for job in same_priority), default=0),
        )
        last_of_owner = max((job.round for job in same_priority if job.owner == owner), default=-1)
        new_round = max(served, last_of_owner + 1)
        job = ReferenceJob(number=number, owner=owner, priority=priority, due=due, round=new_round, has_run=has_run)
        self.jobs.append(job)
        return job

    def move(self, job: ReferenceJob, priority: int, due: int) -> ReferenceJob:
        """Give a waiting job another priority: it stands there as if it were submitted now."""
        self.jobs.remove(job)
        return self.submit(job.number, job.owner, priority, due, has_run=job.has_run)

    def cancel(self, job: ReferenceJob) -> None:
        """End a waiting job. Unless it has run before, it has taken no turn."""
        job.is_waiting = False
        if not job.has_run:
            self.jobs.remove(job)

    def next(self) -> ReferenceJob | None:
        """Return the job to claim next."""
        waiting = [job for job in self.jobs if job.is_waiting]
        if not waiting:
            return None
        earliest_due = min(waiting, key=lambda job: (job.due, job.number))
        return _first(job for job in waiting if job.priority == earliest_due.priority)

    def find(self, number: int) -> ReferenceJob:
        return next(job for job in self.jobs if job.number == number)


def _first(jobs: Iterable[ReferenceJob]) -> ReferenceJob:
    return min(jobs, key=lambda job: (job.round, job.number))
