"""Which of several servers has answered a request."""

from typing import NamedTuple


class AnsweredBy(NamedTuple):
    """The replica whose answer is delivered."""

    deployment: str
    """Its own name, or that of the fallback."""
    replica: str
    attempts: int
    """At this deployment, the one that succeeded included."""
    is_upstream: bool
