"""What jobs/order.py says, without a database."""

from collections.abc import Iterable

import msgspec


class Waiting(msgspec.Struct):
    """A job that waits, or did."""

    number: int
    owner: str
    priority: int
    due: int
    round: int
    waits: bool = True


class ModelQueue:
    """The jobs of one model, those that wait no more too."""

    def __init__(self) -> None:
        self.jobs: list[Waiting] = []

    def submit(self, number: int, owner: str, priority: int, due: int) -> Waiting:
        """Add a job; its number is above all others."""
        alike = [job for job in self.jobs if job.priority == priority]
        served = min((job.round for job in alike if job.waits), default=max((job.round for job in alike), default=0))
        own = max((job.round for job in alike if job.owner == owner), default=-1)
        job = Waiting(number, owner, priority, due, max(served, own + 1))
        self.jobs.append(job)
        return job

    def next(self) -> Waiting | None:
        """The one to be claimed."""
        waiting = [job for job in self.jobs if job.waits]
        if not waiting:
            return None
        most_due = min(waiting, key=lambda job: (job.due, job.number))
        return _first(job for job in waiting if job.priority == most_due.priority)

    def find(self, number: int) -> Waiting:
        return next(job for job in self.jobs if job.number == number)


def _first(jobs: Iterable[Waiting]) -> Waiting:
    return min(jobs, key=lambda job: (job.round, job.number))
