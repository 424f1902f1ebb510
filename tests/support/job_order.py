"""What jobs/storage/fair_queue.py says, without a database."""

from collections.abc import Iterable

import msgspec


class ReferenceJob(msgspec.Struct):
    """A job that waits, or did."""

    number: int
    owner: str
    priority: int
    due: int
    round: int
    is_waiting: bool = True


class ReferenceQueue:
    """The jobs of one model, those that wait no more too."""

    def __init__(self) -> None:
        self.jobs: list[ReferenceJob] = []

    def submit(self, number: int, owner: str, priority: int, due: int) -> ReferenceJob:
        """Add a job; its number is above all others."""
        same_priority = [job for job in self.jobs if job.priority == priority]
        served = min(
            (job.round for job in same_priority if job.is_waiting),
            default=max((job.round for job in same_priority), default=0),
        )
        last_of_owner = max((job.round for job in same_priority if job.owner == owner), default=-1)
        job = ReferenceJob(number, owner, priority, due, max(served, last_of_owner + 1))
        self.jobs.append(job)
        return job

    def next(self) -> ReferenceJob | None:
        """The one to be claimed."""
        waiting = [job for job in self.jobs if job.is_waiting]
        if not waiting:
            return None
        most_due = min(waiting, key=lambda job: (job.due, job.number))
        return _first(job for job in waiting if job.priority == most_due.priority)

    def find(self, number: int) -> ReferenceJob:
        return next(job for job in self.jobs if job.number == number)


def _first(jobs: Iterable[ReferenceJob]) -> ReferenceJob:
    return min(jobs, key=lambda job: (job.round, job.number))
