"""A clock that a test moves."""


class ManualClock:
    """Returns the seconds by which it was advanced."""

    def __init__(self, seconds: float = 1_000.0) -> None:
        self._seconds = seconds

    def __call__(self) -> float:
        return self._seconds

    def advance(self, seconds: float) -> None:
        self._seconds += seconds
