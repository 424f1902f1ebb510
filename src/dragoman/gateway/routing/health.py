"""Which replicas of a deployment may be tried, learnt from the attempts that were made.

A replica is *closed* like a circuit: attempts flow. It is *ejected* after too many failures, and for longer each time.
Afterwards it is *half-open*: one attempt at a time, until two in a row have succeeded. Its operator may also drain it.
"""

import math
import time
from typing import Literal

from dragoman.gateway.routing.recent_counts import Clock, RecentCounts

MAX_CONSECUTIVE_FAILURES = 5

WINDOW_SECONDS = 30
MIN_ATTEMPTS_IN_WINDOW = 20
MAX_FAILURE_SHARE = 0.5

FIRST_EJECTION_SECONDS, MAX_EJECTION_SECONDS = 5.0, 300.0
"""An ejection is twice as long as the one before, unless the replica was closed for the longest time in between."""

MAX_EJECTED_SHARE = 0.5
"""Of the replicas, the half-open ones included. Refused connections and refused access eject beyond it."""

SUCCESSES_TO_CLOSE = 2

SLOW_START_SECONDS = 30.0
MIN_SLOW_START = 0.05
FIRST_CONCURRENCY = 2
"""Concurrent requests at the beginning of the slow start."""

Failure = Literal["failed", "refused", "configuration"]
"""failed: 5xx, time-out, connection lost. refused: nobody listens. configuration: 401, 403 or 404."""

State = Literal["closed", "ejected", "half_open", "draining"]


class Attempt:
    """One attempt at a replica, from its start to its result. Report one result; further ones are ignored."""

    def __init__(self, health: "DeploymentHealth", replica: "_ReplicaHealth", *, is_trial: bool) -> None:
        self._health: DeploymentHealth | None = health
        self._replica = replica
        self._ejections = replica.ejections
        self.is_trial = is_trial
        """Whether it tries a replica that was ejected, alone."""

    def succeed(self) -> None:
        """Report that the replica has done what it should, be it to refuse a bad request."""
        if (health := self._end()) is not None and self._is_current:
            self._replica.succeed(is_trial=self.is_trial, now=health.now)

    def fail(self, failure: Failure) -> None:
        """Report a failure of the replica."""
        if (health := self._end()) is not None and self._is_current:
            health.fail(self._replica, failure, is_trial=self.is_trial)

    def abandon(self) -> None:
        """Report that the attempt says nothing about the replica: its client went away, or it was rate limited."""
        self._end()

    def _end(self) -> "DeploymentHealth | None":
        health, self._health = self._health, None
        if health is not None and self.is_trial:
            self._replica.has_trial = False
        return health

    @property
    def _is_current(self) -> bool:
        """Whether the replica was not ejected since the start: what began before says nothing about the return."""
        return self._ejections == self._replica.ejections


class DeploymentHealth:
    """The health of one deployment's replicas, as this process sees it."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._replicas: dict[str, _ReplicaHealth] = {}

    @property
    def now(self) -> float:
        """The clock's time in seconds."""
        return self._clock()

    def add(self, replica: str, *, is_new: bool = True) -> None:
        """Add a replica. `is_new` False: without slow start, as at the start of the server."""
        self._replicas[replica] = _ReplicaHealth(self._clock, self.now if is_new else -math.inf)

    def remove(self, replica: str) -> None:
        """Remove a replica. Running attempts may still report their results."""
        del self._replicas[replica]

    def knows(self, replica: str) -> bool:
        """Whether a replica was added, and not removed since."""
        return replica in self._replicas

    def successes(self, replica: str) -> int:
        """Return how many attempts a replica has done what it should in since it was added; 0: it is not known."""
        return self._replicas[replica].successes if self.knows(replica) else 0

    def drain(self, replica: str) -> None:
        """Begin no further attempts."""
        self._replicas[replica].is_draining = True

    def undrain(self, replica: str) -> None:
        """Allow attempts again, with slow start."""
        self._replicas[replica].is_draining = False
        self._replicas[replica].returned_at = self.now

    def state(self, replica: str) -> State:
        """Return the state in which a replica is now."""
        return self._replicas[replica].state

    def is_ejected(self, replica: str) -> bool:
        """Whether a replica is left out for its failures now."""
        return self.knows(replica) and self.state(replica) == "ejected"

    def ejected_for(self, replica: str) -> float:
        """Return the seconds since a replica was ejected last."""
        return self.now - self._replicas[replica].ejected_at

    def end_ejection(self, replica: str) -> None:
        """Let an ejected replica be tried now. Its next ejection is as long as if this one had not been ended."""
        self._replicas[replica].ejected_until = self.now

    @property
    def has_closed(self) -> bool:
        """Whether a replica takes requests as usual."""
        return any(replica.state == "closed" for replica in self._replicas.values())

    def may_attempt(self, replica: str) -> bool:
        """Whether an attempt may begin now."""
        health = self._replicas[replica]
        return health.state == "closed" or (health.state == "half_open" and not health.has_trial)

    def begin(self, replica: str) -> Attempt:
        """Begin an attempt, which `may_attempt` allows."""
        health = self._replicas[replica]
        state = health.state
        assert state == "closed" or (state == "half_open" and not health.has_trial), "may_attempt"
        health.has_trial = is_trial = state == "half_open"
        return Attempt(self, health, is_trial=is_trial)

    def returns_in(self, replica: str) -> float | None:
        """Return the seconds until a replica is half-open; 0: it is not ejected. None: it is draining."""
        health = self._replicas[replica]
        return None if health.is_draining else max(0.0, health.ejected_until - self.now)

    def soonest_return(self) -> float | None:
        """Return the seconds until the first replica may be tried again. None: all are draining, or there are none."""
        delays = (self.returns_in(replica) for replica in self._replicas)
        return min((delay for delay in delays if delay is not None), default=None)

    def slow_start(self, replica: str) -> float:
        """Return the share of its weight that a replica has: it grows to 1 after its addition or return."""
        age = self.now - self._replicas[replica].returned_at
        return min(1.0, max(MIN_SLOW_START, age / SLOW_START_SECONDS))

    def allowed_concurrency(self, replica: str, concurrency: int) -> int:
        """Return how many of a replica's places may be used now: few at first."""
        return min(concurrency, max(FIRST_CONCURRENCY, int(concurrency * self.slow_start(replica))))

    def fail(self, health: "_ReplicaHealth", failure: Failure, *, is_trial: bool) -> None:
        """Count a failure, and eject the replica if it is one too many."""
        health.count_failure()
        # One that has answered may refuse what is in a request: a filter before it does that with 403.
        is_certain = failure == "configuration" and not health.has_succeeded
        if (
            is_certain
            or is_trial
            or (health.has_failed_too_often and (failure != "failed" or self._may_eject_one_more()))
        ):
            health.eject()

    def _may_eject_one_more(self) -> bool:
        ejected = sum(not each.is_closed for each in self._replicas.values())
        return ejected + 1 <= MAX_EJECTED_SHARE * len(self._replicas)


class _ReplicaHealth:
    """The results of one replica's attempts."""

    def __init__(self, clock: Clock, returned_at: float) -> None:
        self._clock = clock
        self._recent = RecentCounts(WINDOW_SECONDS, clock)
        self._consecutive_failures = 0
        self._trial_successes = 0
        self._doublings = 0
        self.successes = 0
        self.has_succeeded = False
        """Whether it has done what it should since it was added, or ejected last."""
        self._closed_at = -math.inf
        self.is_draining = False
        self.is_closed = True
        self.has_trial = False
        self.ejections = 0
        self.ejected_at = -math.inf
        self.ejected_until = 0.0
        self.returned_at = returned_at

    @property
    def state(self) -> State:
        if self.is_draining:
            return "draining"
        if self.is_closed:
            return "closed"
        return "ejected" if self._clock() < self.ejected_until else "half_open"

    @property
    def has_failed_too_often(self) -> bool:
        successes, failures = self._recent.totals()
        attempts = successes + failures
        return self._consecutive_failures >= MAX_CONSECUTIVE_FAILURES or (
            attempts >= MIN_ATTEMPTS_IN_WINDOW and failures >= MAX_FAILURE_SHARE * attempts
        )

    def count_failure(self) -> None:
        self._consecutive_failures += 1
        self._recent.add(second=1)

    def succeed(self, *, is_trial: bool, now: float) -> None:
        self.successes += 1
        self.has_succeeded = True
        self._consecutive_failures = 0
        self._recent.add(first=1)
        if is_trial:
            self._trial_successes += 1
            if self._trial_successes >= SUCCESSES_TO_CLOSE:
                self.is_closed = True
                self._closed_at = self.returned_at = now

    def eject(self) -> None:
        now = self._clock()
        if self.is_closed and now - self._closed_at >= MAX_EJECTION_SECONDS:
            self._doublings = 0
        seconds = min(MAX_EJECTION_SECONDS, FIRST_EJECTION_SECONDS * 2 ** min(self._doublings, 64))
        self._doublings += 1
        self.ejections += 1
        self.is_closed = False
        self.ejected_at = now
        self.ejected_until = now + seconds
        self.has_trial = False
        self.has_succeeded = False
        self._trial_successes = 0
        self._consecutive_failures = 0
        self._recent.clear()
