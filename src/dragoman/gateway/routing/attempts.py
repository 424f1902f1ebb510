"""The attempts of one request: which replica each of them goes to, how long it waits, and whether there is another."""

import asyncio
import copy
import math
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from dragoman.core import logs
from dragoman.core.answered_by import AnsweredBy, AttemptObserver, FailedAttempt, RefusingReplica
from dragoman.core.errors import DragomanError, EngineFailed, Overloaded, ReplicaFailed
from dragoman.core.tasks import Task
from dragoman.engines.base import Engine
from dragoman.gateway.routing import health
from dragoman.gateway.routing.described_request import describe
from dragoman.gateway.routing.leases import QueueFull, ReplicaLease
from dragoman.gateway.routing.replica import Replica
from dragoman.gateway.routing.router import Router

UNKNOWN_RETRY_SECONDS = 5
"""After which a client may try again if nobody knows when a replica can take a request."""

MAX_OVERLOAD_PAUSE_SECONDS = 60.0
"""Time for which an overloaded replica is left alone at most: one that is started anew may be well before."""

_CANCELLED = "cancelled"
"""The result of an attempt that was neither completed nor failed."""

_log = logs.get_logger(__name__)


class Attempts(Protocol):
    """The attempts of one request, one after the other. Implemented by DirectAttempts and RoutedAttempts."""

    async def begin(self) -> Engine:
        """Begin an attempt. Raises core.errors."""
        ...

    def note_output(self) -> None:
        """Note that the answer's first token has arrived, before it is sent: there is no further attempt."""
        ...

    def succeed(self) -> None:
        """Note the end of the answer."""
        ...

    def fail(self, error: DragomanError) -> None:
        """Note how the attempt ended. Raises what the client is to see, unless there shall be another attempt."""
        ...

    def end(self) -> None:
        """End the attempt, after `succeed`, `fail` or a cancellation."""
        ...


class RoutedAttempts:
    """Implements Attempts over the replicas of a router.

    At most one attempt runs at a time. It has a place at its replica from `begin` to `end`, however it ends.
    """

    def __init__(
        self,
        deployment: str,
        router: Router,
        request: Task,
        *,
        able: Callable[[], Sequence[Replica]],
        max_attempts: int,
        observer: AttemptObserver | None = None,
    ) -> None:
        """`able` returns the replicas that can answer the request. It is asked again: replicas come and go."""
        self.count = 0
        """Attempts begun."""
        self.replica: Replica | None = None
        """The one that was chosen last."""
        self._deployment = deployment
        self._observer = observer
        self._router = router
        self._able = able
        self._max_attempts = max_attempts
        replicas = able()
        separations: Collection[bool] = ()
        if len(replicas) > 1 and router.needs_blocks:
            separations = {each.separates_owners for each in replicas}
        self._request, self._tokens = describe(request, separations=separations)
        self._tried: set[str] = set()
        self._wait_left = router.options.wait_seconds
        self._error: DragomanError | None = None
        self._lease: ReplicaLease | None = None
        self._attempt: health.Attempt | None = None
        self._matched_blocks = 0
        self._began_at = 0.0
        self._has_output = False
        self._is_hedge = False
        self._result = _CANCELLED
        router.budget.record_request()

    @property
    def hedge_after(self) -> float | None:
        """Seconds without a token after which `hedge` is worth a try; None: never."""
        return self._router.options.hedge_after

    def hedge(self) -> "RoutedAttempts | None":
        """Return one more attempt beside the current one, at another replica. None: the router allows none now."""
        if self._has_output or not self._router.try_hedge(self._able(), self._others()):
            return None
        hedge = copy.copy(self)  # It shares what was tried, and the description of the request.
        hedge._able = self._others
        hedge._max_attempts = self.count + 1
        hedge._wait_left = 0.0
        hedge._lease = hedge._attempt = hedge._error = hedge.replica = None
        hedge._is_hedge = True
        return hedge

    def _others(self) -> list[Replica]:
        """Return the replicas that were not tried and may be asked besides."""
        return [replica for replica in self._able() if replica.may_hedge and replica.name not in self._tried]

    async def begin(self) -> Engine:
        """Take a place at a replica, and wait for one if necessary. Raises Overloaded, or the last attempt's error."""
        if not self.count and (lease := self._router.leases.try_acquire(self._choose, self._tokens)) is not None:
            self._lease = lease
        else:
            await self._wait_for_place()
        self._began_at = asyncio.get_running_loop().time()
        self.count += 1
        replica, _ = self._current()
        self._tried.add(replica.name)
        if self._is_hedge and self._router.metrics is not None:
            self._router.metrics.observe_hedge(self._deployment, replica.name)
        return replica.engine

    async def _wait_for_place(self) -> None:
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        try:
            async with asyncio.timeout_at(began_at + self._wait_left):
                if self.count and not self._router.has_other(self._able(), self._tried):
                    await asyncio.sleep(self._router.backoff(self.count))
                self._require_return()
                self._lease = await self._router.leases.acquire(self._choose, self._tokens)
        except (TimeoutError, QueueFull):
            self.end()
            raise self._unavailable() from None
        except BaseException:
            self.end()
            raise
        finally:
            ended_at = loop.time()
            if self._observer is not None:
                self._observer.note_wait(began_at, ended_at)
        self._wait_left -= ended_at - began_at

    def note_output(self) -> None:
        """Note that the answer's first token has arrived: the replica has the prompt, and no other one is tried."""
        replica, attempt = self._current()
        self._has_output = True
        if self._observer is not None:
            answered_by = AnsweredBy(self._deployment, replica.name, self.count, replica.is_upstream, self._began_at)
            self._observer.note_answer(answered_by)
        if (metrics := self._router.metrics) is not None:
            seconds = asyncio.get_running_loop().time() - self._began_at
            metrics.observe_first_token(self._deployment, replica.name, seconds, self._matched_blocks)
        if self._request.blocks or self._request.shared_blocks:
            blocks = self._request.blocks_for(separates_owners=replica.separates_owners)
            if blocks and self._router.health.knows(replica.name):
                self._router.prefixes.record(replica.name, blocks)
        if attempt.is_trial:
            # A replica that has returned must not wait for the end of a long answer.
            attempt.succeed()
            self._router.leases.notify()

    def succeed(self) -> None:
        """Note the end of the answer."""
        self._current()[1].succeed()
        self._result = "ok"

    def fail(self, error: DragomanError) -> None:
        """Note how the attempt ended. Raises what the client is to see, unless there shall be another attempt."""
        self._error = error
        self._judge(error)
        if not self._may_repeat(error):
            raise self._shown(error)

    def end(self) -> None:
        """Give the place back. An attempt without a result says nothing about the replica."""
        attempt, lease = self._attempt, self._lease
        self._attempt = self._lease = None
        if lease is not None:
            self._report_end(lease.replica)
            self._result = _CANCELLED
        if attempt is not None:
            attempt.abandon()
        if lease is not None:
            lease.release()
        if attempt is not None and attempt.is_trial:
            self._router.leases.notify()  # There may be more places than that of the one trial.

    def _choose(self) -> str | None:
        able = self._able()
        choice = self._router.choose(able, self._request, self._tried)
        if choice is None:
            return None
        self.replica = able[0] if len(able) == 1 else next(each for each in able if each.name == choice.id)
        self._matched_blocks = choice.matched_blocks
        # In the same step as the lease: nobody else may begin the one attempt that a half-open replica allows.
        self._attempt = self._router.health.begin(choice.id)
        return choice.id

    def _judge(self, error: DragomanError) -> None:
        """Report to the replica's health, and keep those away whom it would refuse."""
        replica, attempt = self._current()
        router = self._router
        was_ejected = router.health.is_ejected(replica.name)
        self._result = error.fault if isinstance(error, ReplicaFailed) else _result_of(error)
        match error:
            case ReplicaFailed(fault="limited", retry_after=seconds):
                router.pause(replica.name, seconds)
            case ReplicaFailed(fault="exhausted"):
                attempt.fail("configuration")
            case ReplicaFailed(fault="refused" | "configuration" as fault):
                attempt.fail(fault)
                if fault == "refused":
                    router.prefixes.forget(replica.name)  # Its server has ended, and its cache with it.
                else:
                    error.refused_by = RefusingReplica(replica.name, router.health.successes(replica.name))
            case ReplicaFailed(retry_after=seconds) if seconds:
                attempt.fail("failed")
                router.pause(replica.name, min(seconds, MAX_OVERLOAD_PAUSE_SECONDS))
            case EngineFailed():
                attempt.fail("failed")
            case Overloaded():
                pass
            case _:
                attempt.succeed()
        if not was_ejected and router.health.is_ejected(replica.name):
            self._report_ejection(replica, error)
        router.watch(replica)

    def _report_ejection(self, replica: Replica, error: DragomanError) -> None:
        seconds = self._router.health.returns_in(replica.name)
        _log.warning("replica_ejected", replica=replica.name, reason=error.message, seconds=seconds)
        if self._router.metrics is not None:
            self._router.metrics.observe_ejection(self._deployment, replica.name)

    def _report_end(self, replica: str) -> None:
        if self._router.metrics is not None:
            self._router.metrics.observe_end(self._deployment, replica, self._result, had_output=self._has_output)
        if self._observer is not None and not self._has_output:
            now = asyncio.get_running_loop().time()
            self._observer.note_failure(
                FailedAttempt(
                    replica=replica,
                    outcome=self._result,
                    is_upstream=self.replica is not None and self.replica.is_upstream,
                    began_at=self._began_at,
                    ended_at=now,
                )
            )

    def _current(self) -> tuple[Replica, health.Attempt]:
        assert self.replica is not None, "an attempt has begun"
        assert self._attempt is not None, "an attempt has begun"
        return self.replica, self._attempt

    def _may_repeat(self, error: DragomanError) -> bool:
        if self._has_output or self.count >= self._max_attempts:
            return False
        needs_other = isinstance(error, ReplicaFailed) and error.fault in ("timed_out", "exhausted")
        if needs_other or isinstance(error, Overloaded):
            # Only another replica may be less loaded, or quicker: the same one would begin anew, and be paid for it.
            return self._router.has_other(self._able(), self._tried) and self._router.budget.try_spend()
        return isinstance(error, ReplicaFailed) and self._router.budget.try_spend()

    def _require_return(self) -> None:
        """Raise what `_unavailable` returns if no replica may be attempted before the wait ends."""
        soonest = self._router.returns_in(self._able())
        if soonest is None or soonest > self._wait_left:
            raise self._unavailable()

    def _unavailable(self) -> DragomanError:
        """Return the error of a request that no replica could take in time."""
        if self._error is not None:
            return self._shown(self._error)
        soonest = self._router.returns_in(self._able())
        seconds = UNKNOWN_RETRY_SECONDS if soonest is None else math.ceil(soonest)
        return Overloaded("No server of the model can take the request now", retry_after=seconds)

    def _shown(self, error: DragomanError) -> DragomanError:
        """Return an error as the client sees it: that of a limit or an overload asks it to come later."""
        if isinstance(error, ReplicaFailed) and error.fault == "exhausted":
            return Overloaded("The model's servers cannot take requests now", retry_after=UNKNOWN_RETRY_SECONDS)
        if isinstance(error, ReplicaFailed) and (error.fault == "limited" or error.retry_after):
            reason = "rate limited" if error.fault == "limited" else "overloaded"
            return Overloaded(f"The model's servers are {reason}", retry_after=math.ceil(error.retry_after))
        return error


def _result_of(error: DragomanError) -> str:
    """Return what metrics call the end of an attempt with this error."""
    if isinstance(error, EngineFailed):
        return "failed"
    return "overloaded" if isinstance(error, Overloaded) else "refused_request"
