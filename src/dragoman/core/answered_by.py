"""Which of several servers has answered a request, and which were tried before."""

from typing import NamedTuple, Protocol

from dragoman.core.events import Started


class AnsweredBy(NamedTuple):
    """The replica whose answer is delivered."""

    deployment: str
    """Its own name, or that of the fallback."""
    replica: str
    attempts: int
    """At this deployment, the one that succeeded included."""
    is_upstream: bool
    began_at: float | None = None
    """When the attempt began, in seconds of time.monotonic. None: not known."""


class FailedAttempt(NamedTuple):
    """An attempt that ended before its first token."""

    replica: str
    outcome: str
    """As metrics call it."""
    is_upstream: bool
    began_at: float
    """In seconds of time.monotonic."""
    ended_at: float


class RefusingReplica(NamedTuple):
    """A replica that has refused access to a request."""

    name: str
    successes: int
    """Requests that it had answered by then."""


class AttemptObserver(Protocol):
    """Is notified of the attempts of a request."""

    def note_wait(self, began_at: float, ended_at: float) -> None:
        """Note that the request has waited for a place, in seconds of time.monotonic."""
        ...

    def note_answer(self, answered_by: AnsweredBy) -> None:
        """Note that an answer begins, before its first event is delivered."""
        ...

    def note_start(self, started: Started) -> None:
        """Note that one of several prompts begins to be answered. The events of a single one say so themselves."""
        ...

    def note_failure(self, failure: FailedAttempt) -> None:
        """Note that an attempt has ended before its first token."""
        ...
