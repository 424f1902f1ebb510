"""A clock that a test moves."""


class ManualClock:
    """Returns the seconds by which it was advanced."""

    def __init__(self, seconds: float = 1_000.0) -> None:
        self._seconds = seconds
        self._steps: list[float] = []

    def __call__(self) -> float:
        if self._steps:
            self._seconds += self._steps.pop(0)
        return self._seconds

    def advance_at(self, reads: int, seconds: float) -> None:
        """Advance it when it has been read so many times from now on."""
        self._steps = [*[0.0] * reads, seconds]

    def advance(self, seconds: float) -> None:
        self._seconds += seconds
