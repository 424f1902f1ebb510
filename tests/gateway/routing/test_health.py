"""Health by random attempts, and each rule by example."""

from typing import get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dragoman.gateway.routing.health import (
    FIRST_CONCURRENCY,
    FIRST_EJECTION_SECONDS,
    MAX_CONSECUTIVE_FAILURES,
    MAX_EJECTION_SECONDS,
    SLOW_START_SECONDS,
    Attempt,
    DeploymentHealth,
    Failure,
)
from tests.support.manual_clock import ManualClock

FAILURES: tuple[Failure, ...] = get_args(Failure)
REPLICAS = ("a", "b", "c", "d")


class HealthModel(RuleBasedStateMachine):
    """Attempts at four replicas, some of them concurrent."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.health = DeploymentHealth(self.clock)
        for replica in REPLICAS:
            self.health.add(replica)
        self.running: list[tuple[str, Attempt, bool]] = []
        self.has_unbounded_failures = False

    @rule(replica=st.sampled_from(REPLICAS), end=st.sampled_from(["succeed", "abandon", "failed", "run"]))
    def attempt(self, replica: str, end: str) -> None:
        if self.health.may_attempt(replica):
            is_trial = self.health.state(replica) == "half_open"
            attempt = self.health.begin(replica)
            self.running.append((replica, attempt, is_trial))
            if end != "run":
                self.end(attempt, end)
                self.running.pop()

    @rule(replica=st.sampled_from(REPLICAS))
    def fail_repeatedly(self, replica: str) -> None:
        for _ in range(MAX_CONSECUTIVE_FAILURES):
            if self.health.may_attempt(replica):
                self.health.begin(replica).fail("failed")

    @precondition(lambda self: self.running)
    @rule(data=st.data(), end=st.sampled_from(["succeed", "abandon", *FAILURES]))
    def end_one(self, data: st.DataObject, end: str) -> None:
        _, attempt, _ = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.end(attempt, end)

    @rule(seconds=st.sampled_from([0.5, FIRST_EJECTION_SECONDS, 60, MAX_EJECTION_SECONDS]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(replica=st.sampled_from(REPLICAS))
    def drain_or_undrain(self, replica: str) -> None:
        if self.health.state(replica) == "draining":
            self.health.undrain(replica)
        else:
            self.health.drain(replica)

    @invariant()
    def at_most_half_are_ejected_unless_connections_were_refused_or_the_configuration_is_wrong(self) -> None:
        not_closed = [replica for replica in REPLICAS if self.health.state(replica) in ("ejected", "half_open")]
        assert len(not_closed) <= len(REPLICAS) // 2 or self.has_unbounded_failures

    @invariant()
    def a_half_open_replica_has_one_attempt(self) -> None:
        for replica in REPLICAS:
            trials = [entry for entry in self.running if entry[0] == replica and entry[2]]
            if self.health.state(replica) == "half_open":
                assert len(trials) == (0 if self.health.may_attempt(replica) else 1)

    @invariant()
    def every_ejection_ends(self) -> None:
        for replica in REPLICAS:
            delay = self.health.returns_in(replica)
            assert (delay is None) == (self.health.state(replica) == "draining")
            assert delay is None or 0 <= delay <= MAX_EJECTION_SECONDS
            assert self.health.state(replica) != "ejected" or delay

    def end(self, attempt: Attempt, end: str) -> None:
        if end == "succeed":
            attempt.succeed()
        elif end == "abandon":
            attempt.abandon()
        else:
            [failure] = [each for each in FAILURES if each == end]
            self.has_unbounded_failures |= failure != "failed"
            attempt.fail(failure)

    def teardown(self) -> None:
        for _, attempt, _ in self.running:
            attempt.abandon()
        self.clock.advance(MAX_EJECTION_SECONDS)
        for replica in REPLICAS:
            self.health.undrain(replica)
            for _ in range(2):
                self.health.begin(replica).succeed()
            assert self.health.state(replica) == "closed"


TestHealth = HealthModel.TestCase
TestHealth.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def health_of(*replicas: str) -> tuple[DeploymentHealth, ManualClock]:
    clock = ManualClock()
    health = DeploymentHealth(clock)
    for replica in replicas:
        health.add(replica, is_new=False)
    return health, clock


def fail(health: DeploymentHealth, replica: str, failure: Failure = "failed", times: int = 5) -> None:
    for _ in range(times):
        health.begin(replica).fail(failure)


def test_five_failures_in_a_row_eject_and_a_success_between_them_starts_the_count_again() -> None:
    health, _ = health_of("a", "b")
    fail(health, "a", times=4)
    health.begin("a").succeed()
    fail(health, "a", times=4)
    assert health.state("a") == "closed"
    fail(health, "a", times=1)
    assert health.state("a") == "ejected"
    assert not health.may_attempt("a")
    assert health.may_attempt("b")


def test_half_of_twenty_recent_attempts_eject_though_no_five_in_a_row_failed() -> None:
    health, clock = health_of("a", "b")
    for _ in range(9):
        health.begin("a").succeed()
        fail(health, "a", times=1)
    clock.advance(32)  # These count no more.
    for _ in range(9):
        health.begin("a").succeed()
        fail(health, "a", times=1)
    health.begin("a").succeed()
    assert health.state("a") == "closed"
    fail(health, "a", times=1)
    assert health.state("a") == "ejected"


def test_bad_requests_and_abandoned_attempts_eject_nothing() -> None:
    health, _ = health_of("a", "b")
    fail(health, "a", times=4)
    for _ in range(100):
        health.begin("a").abandon()
    assert health.state("a") == "closed"


def test_each_ejection_lasts_twice_as_long_up_to_a_limit_until_the_replica_was_well_for_long() -> None:
    health, clock = health_of("a", "b")
    durations = []
    for _ in range(9):
        fail(health, "a", times=5 if health.state("a") == "closed" else 1)
        seconds = health.returns_in("a")
        assert seconds is not None
        durations.append(seconds)
        clock.advance(seconds)
        assert health.state("a") == "half_open"
    assert durations == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    for _ in range(2):
        health.begin("a").succeed()
    clock.advance(MAX_EJECTION_SECONDS)
    fail(health, "a")
    assert health.returns_in("a") == FIRST_EJECTION_SECONDS


def test_a_replica_that_flaps_is_ejected_for_longer_and_longer() -> None:
    health, clock = health_of("a", "b")
    for seconds in (5, 10, 20):
        fail(health, "a")
        assert health.returns_in("a") == seconds
        clock.advance(seconds)
        for _ in range(2):
            health.begin("a").succeed()
        assert health.state("a") == "closed"


def test_one_attempt_at_a_time_tries_a_returning_replica_and_two_successes_close_it() -> None:
    health, clock = health_of("a", "b")
    fail(health, "a")
    clock.advance(FIRST_EJECTION_SECONDS)
    first = health.begin("a")
    assert not health.may_attempt("a")
    first.abandon()
    assert health.may_attempt("a")
    health.begin("a").succeed()
    assert health.state("a") == "half_open"
    health.begin("a").fail("failed")
    clock.advance(2 * FIRST_EJECTION_SECONDS)
    health.begin("a").succeed()
    assert health.state("a") == "half_open"
    health.begin("a").succeed()
    assert health.state("a") == "closed"


def test_attempts_from_before_an_ejection_say_nothing_about_the_return() -> None:
    health, clock = health_of("a", "b")
    old = [health.begin("a") for _ in range(4)]
    more = [health.begin("a") for _ in range(MAX_CONSECUTIVE_FAILURES)]
    fail(health, "a")
    clock.advance(1)
    old[0].fail("configuration")
    for attempt in more:
        attempt.fail("refused")
    clock.advance(-1)
    assert health.returns_in("a") == FIRST_EJECTION_SECONDS
    clock.advance(FIRST_EJECTION_SECONDS)
    trial = health.begin("a")
    old[1].succeed()
    old[2].succeed()
    old[3].fail("refused")
    assert health.state("a") == "half_open"
    assert not health.may_attempt("a")
    trial.succeed()
    trial.fail("failed")  # A second result counts for nothing.
    assert health.may_attempt("a")


@pytest.mark.parametrize(("replicas", "ejectable"), [("a", 0), ("ab", 1), ("abc", 1), ("abcd", 2)])
def test_failures_eject_at_most_half(replicas: str, ejectable: int) -> None:
    health, _ = health_of(*replicas)
    for _ in range(3):
        for replica in replicas:
            if health.may_attempt(replica):
                fail(health, replica)
    assert sum(health.state(replica) == "ejected" for replica in replicas) == ejectable


def test_refused_connections_eject_all() -> None:
    health, _ = health_of(*REPLICAS)
    for replica in REPLICAS:
        fail(health, replica, "refused")
        assert health.state(replica) == "ejected"
    assert health.soonest_return() == FIRST_EJECTION_SECONDS


def test_refused_connections_leave_the_others_in() -> None:
    health, _ = health_of(*REPLICAS)
    fail(health, "a", "refused")
    fail(health, "b", "refused")
    fail(health, "c", times=50)
    assert health.state("c") == "closed"


def test_a_wrong_configuration_ejects_at_once() -> None:
    health, _ = health_of("a")
    fail(health, "a", "configuration", times=1)
    assert health.state("a") == "ejected"


def test_a_replica_that_has_answered_is_not_ejected_for_one_refusal_of_access_but_for_five_in_a_row() -> None:
    health, clock = health_of("a")
    health.begin("a").succeed()
    fail(health, "a", "configuration", times=4)
    health.begin("a").succeed()
    fail(health, "a", "configuration", times=4)
    assert health.state("a") == "closed"
    fail(health, "a", "configuration", times=1)
    assert health.state("a") == "ejected"
    clock.advance(FIRST_EJECTION_SECONDS)
    fail(health, "a", "configuration", times=1)
    assert health.state("a") == "ejected"


def test_a_draining_replica_gets_no_attempts_and_comes_back_slowly() -> None:
    health, clock = health_of("a")
    health.drain("a")
    assert health.state("a") == "draining"
    assert not health.may_attempt("a")
    assert health.soonest_return() is None
    health.undrain("a")
    assert health.may_attempt("a")
    assert health.slow_start("a") < 0.1
    clock.advance(SLOW_START_SECONDS)
    assert health.slow_start("a") == 1


def test_weight_and_places_grow_after_addition_and_return_but_not_after_the_start_of_the_server() -> None:
    health, clock = health_of("old", "ejected")
    health.add("new")
    assert health.slow_start("old") == 1
    fail(health, "ejected")
    clock.advance(FIRST_EJECTION_SECONDS)
    for _ in range(2):
        health.begin("ejected").succeed()
    assert health.slow_start("ejected") < 0.1
    assert health.allowed_concurrency("ejected", 40) == FIRST_CONCURRENCY
    clock.advance(SLOW_START_SECONDS / 2)
    assert health.slow_start("ejected") == 0.5
    assert health.allowed_concurrency("ejected", 40) == 20
    assert health.allowed_concurrency("ejected", 1) == 1
    assert health.slow_start("new") == pytest.approx(20 / 30)


def test_a_removed_replica_may_still_end_its_attempts() -> None:
    health, _ = health_of("a", "b")
    attempt = health.begin("a")
    health.remove("a")
    attempt.fail("refused")
    health.add("a")
    assert health.state("a") == "closed"
