"""Whether an upstream is ready, by its probes."""

from dragoman.core.errors import DragomanError
from dragoman.engines.upstream.failures import error_of
from dragoman.engines.upstream.transport_errors import ConnectFailed, LocalShortage

FAILURES_TO_LEAVE, SUCCESSES_TO_RETURN = 3, 2
"""Probes in a row after which an upstream is not ready, or ready again."""


class ProbedHealth:
    """Whether an upstream is ready, by its probes: one that wavers keeps its state."""

    def __init__(self) -> None:
        self.is_ready = False
        self._differing = 0
        """Probes in a row whose result differs from the state."""
        self._was_probed = False
        self._shortage: LocalShortage | None = None
        """Why the last probe was not sent."""

    def note(self, failure: Exception | None) -> bool:
        """Note the result of a probe (None: success) and return whether the state has changed, or is the first known.

        The first probe decides alone. One that this process could not send decides nothing.
        """
        self._shortage = failure if isinstance(failure, LocalShortage) else None
        if self._shortage is not None:
            return False
        is_well = failure is None
        self._differing = 0 if is_well == self.is_ready else self._differing + 1
        needed = SUCCESSES_TO_RETURN if is_well else FAILURES_TO_LEAVE
        if self._was_probed and self._differing < needed:
            return False
        self._was_probed = True
        self.is_ready = is_well
        self._differing = 0
        return True

    def unreachable(self) -> DragomanError:
        """Return the error of a request to an upstream whose last probe has failed."""
        return error_of(self._shortage or ConnectFailed(), has_output=False)
