"""Jobs that this process cannot decode: a newer version of dragoman wrote them, whose servers run them."""

MAX_UNREADABLE = 1000
"""Jobs that a process remembers. Each claim reads past them."""


class UnreadableJobs:
    """The numbers of these jobs, so that none is claimed twice."""

    def __init__(self) -> None:
        self._numbers: set[int] = set()

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the jobs that are left to other processes."""
        return tuple(self._numbers)

    def add(self, number: int) -> bool:
        """Leave a job to other processes. False: there are too many, so that it may be claimed again."""
        if len(self._numbers) >= MAX_UNREADABLE:
            return False
        self._numbers.add(number)
        return True
