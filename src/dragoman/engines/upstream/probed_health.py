"""Whether an upstream is ready, by its probes."""

FAILURES_TO_LEAVE, SUCCESSES_TO_RETURN = 3, 2
"""Probes in a row after which an upstream is not ready, or ready again."""


class ProbedHealth:
    """Whether an upstream is ready, by its probes: one that wavers keeps its state."""

    def __init__(self) -> None:
        self.is_ready = False
        self._differing = 0
        """Probes in a row whose result differs from the state."""
        self._was_probed = False

    def note(self, *, is_well: bool) -> bool:
        """Note the result of a probe, and return whether the state has changed. The first probe decides alone."""
        self._differing = 0 if is_well == self.is_ready else self._differing + 1
        needed = 1 if not self._was_probed else SUCCESSES_TO_RETURN if is_well else FAILURES_TO_LEAVE
        self._was_probed = True
        if self._differing < needed:
            return False
        self.is_ready = is_well
        self._differing = 0
        return True
