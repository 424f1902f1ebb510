"""Which requests the engine takes, and which it sends away."""

import numpy as np

from dragoman.core.errors import BadRequest, Overloaded
from dragoman.core.events import Delta, Finished, Usage
from dragoman.core.request import QUEUED
from dragoman.engines.llama.sequence import Job
from dragoman.engines.llama.stepper import Published, Stepper
from tests.support.batching import GREEDY, Harness
from tests.support.simulated_backend import answer_alone

PROMPT = [5, 6, 7]
LIMIT = 8
ALONE = answer_alone(PROMPT, LIMIT)


def job(number: int, priority: int = 0, begun: tuple[tuple[int, ...], ...] = ()) -> Job:
    return Job((0, number), np.array(PROMPT, dtype=np.int32), GREEDY, LIMIT, priority=priority, begun=begun)


def ends(jobs: list[Job]) -> dict[int, list[Published]]:
    """What is published of jobs that come together, by their numbers, until each has ended."""
    by_number: dict[int, list[Published]] = {one.key[1]: [] for one in jobs}
    open_jobs = set(by_number)

    def publish(published: list[Published]) -> None:
        for one in published:
            by_number[one.key[1]].append(one)
            if isinstance(one.event, Usage | BadRequest | Overloaded):
                open_jobs.remove(one.key[1])
        if not open_jobs:
            stepper.stop()

    stepper = Stepper(Harness().batcher, parallel=1, max_waiting=2, publish=publish)
    for one in jobs:
        stepper.add(one, 1, seed=1)
    stepper.run()
    return by_number


def refused(jobs: list[Job]) -> list[int]:
    return [number for number, told in ends(jobs).items() if isinstance(told[-1].event, Overloaded)]


def test_as_many_wait_as_may_and_the_others_are_sent_away() -> None:
    assert refused([job(number) for number in range(5)]) == [2, 3, 4]


def test_none_is_sent_away_because_of_queued_ones() -> None:
    assert refused([*(job(number, QUEUED) for number in range(4)), job(4), job(5)]) == [2, 3]


def test_queued_ones_are_sent_away_when_anybody_waits() -> None:
    assert refused([*(job(number) for number in range(2)), job(2, QUEUED)]) == [2]


def test_a_choice_that_was_complete_ends_without_a_step() -> None:
    told = [one.event for one in ends([job(0, begun=(tuple(ALONE),))])[0]]
    assert [token for event in told if isinstance(event, Delta) for token in event.token_ids] == ALONE
    assert told[-2:] == [Finished(0, "length"), Usage(len(PROMPT), LIMIT, 0)]


def test_what_cannot_have_begun_like_that_is_refused_and_others_are_answered() -> None:
    told = ends([job(0, begun=((*ALONE, 1),)), job(1)])
    [refusal] = told[0]
    assert isinstance(refusal.event, BadRequest)
    assert refusal.event.parameter == "begun"
    assert refusal.event.message == (
        "begun holds 9 tokens of choice 0, but as this request stands the choice ends with 8"
    )
    assert isinstance(told[1][-1].event, Usage)
