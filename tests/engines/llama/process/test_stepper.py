"""Which requests the stepper accepts and which it rejects, and its end."""

import threading
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from dragoman.core.errors import BadRequest, Overloaded
from dragoman.core.events import Delta, Finished, Usage
from dragoman.core.request import QUEUED_PRIORITY_OFFSET
from dragoman.engines.llama.arrays import Logits
from dragoman.engines.llama.batching.batcher import Batcher, RequestOutput
from dragoman.engines.llama.batching.sequence import EngineRequest
from dragoman.engines.llama.native.backend import NO_ADAPTER, Chunk, DecodeError
from dragoman.engines.llama.process.stepper import (
    MAX_QUEUED_COMMANDS,
    Stepper,
    request_to_displace,
    waiting_requests,
)
from tests.support.batching import GREEDY, BatcherHarness
from tests.support.simulated_backend import SimulatedBackend, SimulatedVocabulary, reference_answer
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

PROMPT = [5, 6, 7]
LIMIT = 8
ALONE = reference_answer(PROMPT, LIMIT)


def request(
    number: int, priority: int = 0, resumed: tuple[tuple[int, ...], ...] = (), owner: str = ""
) -> EngineRequest:
    return EngineRequest(
        (0, number),
        np.array(PROMPT, dtype=np.int32),
        GREEDY,
        LIMIT,
        priority=priority,
        resume_token_ids=resumed,
        owner=owner,
    )


def run_to_completion(requests: list[EngineRequest]) -> dict[int, list[RequestOutput]]:
    """Run requests that arrive together, and return their output by their numbers."""
    by_number: dict[int, list[RequestOutput]] = {one.key[1]: [] for one in requests}
    open_requests = set(by_number)

    def publish(published: list[RequestOutput]) -> None:
        for one in published:
            by_number[one.key[1]].append(one)
            if isinstance(one.event, Usage | BadRequest | Overloaded):
                open_requests.remove(one.key[1])
        if not open_requests:
            stepper.stop()

    stepper = Stepper(BatcherHarness().batcher, max_sequences=1, max_waiting=2, publish=publish)
    for one in requests:
        stepper.add(one, 1, seed=1)
    stepper.run()
    return by_number


def overloaded(requests: list[EngineRequest]) -> list[int]:
    return [
        number for number, outputs in run_to_completion(requests).items() if isinstance(outputs[-1].event, Overloaded)
    ]


def test_requests_beyond_max_waiting_are_refused() -> None:
    assert overloaded([request(number) for number in range(5)]) == [2, 3, 4]


def test_an_owner_with_fewer_waiting_requests_takes_the_place_of_anothers_youngest() -> None:
    owners = ["greedy", "greedy", "greedy", "modest", "modest", "greedy"]
    assert overloaded([request(number, owner=owner) for number, owner in enumerate(owners)]) == [1, 2, 4, 5]


def test_no_owner_takes_a_place_from_one_that_has_as_few() -> None:
    assert overloaded([request(number, owner=f"account {number}") for number in range(4)]) == [2, 3]


def test_queued_requests_take_no_place_of_interactive_ones() -> None:
    interactive = [request(number, owner="greedy") for number in range(2)]
    assert overloaded([*interactive, request(2, QUEUED_PRIORITY_OFFSET, owner="modest")]) == [2]


def test_a_request_that_has_given_output_keeps_its_place() -> None:
    batcher = BatcherHarness(cells=64, max_sequences=3).batcher
    scheduler = batcher.scheduler
    for number in range(3):
        batcher.add(
            EngineRequest(
                (0, number),
                np.array([5 + number] * 4, dtype=np.int32),
                msgspec.structs.replace(GREEDY, ignore_eos=True),
                50,
                owner="greedy",
            ),
            1,
            seed=1,
        )
    while [sequence.generated > 0 for sequence in scheduler.waiting] != [True, True]:
        batcher.step()  # Until cells run out, and the younger ones are preempted.
    late = request(9, owner="modest")
    assert request_to_displace(waiting_requests(scheduler.waiting), late) is None
    for number in range(3, 6):
        batcher.add(request(number, owner="greedy"), 2, seed=1)
    assert len(waiting_requests([*scheduler.running, *scheduler.waiting])) == 2 + 3
    displaced = request_to_displace(waiting_requests(scheduler.waiting), late)
    assert displaced is not None
    assert displaced.key == (0, 5)


def test_queued_requests_do_not_count_against_interactive_ones() -> None:
    assert overloaded([*(request(number, QUEUED_PRIORITY_OFFSET) for number in range(4)), request(4), request(5)]) == [
        2,
        3,
    ]


def test_a_queued_request_is_refused_while_others_wait() -> None:
    assert overloaded([*(request(number) for number in range(2)), request(2, QUEUED_PRIORITY_OFFSET)]) == [2]


def test_a_resumed_choice_that_is_complete_ends_without_a_step() -> None:
    outputs = [one.event for one in run_to_completion([request(0, resumed=(tuple(ALONE),))])[0]]
    assert [token for event in outputs if isinstance(event, Delta) for token in event.token_ids] == ALONE
    assert outputs[-2:] == [Finished(0, "length"), Usage(len(PROMPT), LIMIT, 0)]


def test_invalid_resume_tokens_are_refused_and_other_requests_answered() -> None:
    outputs = run_to_completion([request(0, resumed=((*ALONE, 1),)), request(1)])
    [error] = outputs[0]
    assert isinstance(error.event, BadRequest)
    assert error.event.parameter == "resume_token_ids"
    assert error.event.message == (
        "resume_token_ids holds 9 tokens of choice 0, but as this request stands the choice ends with 8"
    )
    assert isinstance(outputs[1][-1].event, Usage)


class FailingBackend(SimulatedBackend):
    """A model that loses its state in the first step."""

    def decode(self, chunks: Sequence[Chunk], adapter: int = NO_ADAPTER) -> Logits:
        raise DecodeError("llama_decode returned -1")


class StuckBackend(SimulatedBackend):
    """Decodes only when it is released."""

    def __init__(self, cells: int) -> None:
        super().__init__(cells)
        self.decoding, self.released = threading.Event(), threading.Event()

    def decode(self, chunks: Sequence[Chunk], adapter: int = NO_ADAPTER) -> Logits:
        self.decoding.set()
        assert self.released.wait(TEST_TIMEOUT_SECONDS)
        return super().decode(chunks, adapter)


def test_the_time_of_a_step_that_is_stuck_grows_and_an_idle_stepper_has_none() -> None:
    backend = StuckBackend(64)
    batcher = Batcher(backend, SimulatedVocabulary(), max_sequences=1, max_batched_tokens=32, host_cache_tokens=0)
    stepper = Stepper(batcher, max_sequences=1, max_waiting=2, publish=lambda published: None)
    thread = threading.Thread(target=stepper.run)
    thread.start()
    stepper.add(request(0), 1, seed=1)
    assert backend.decoding.wait(TEST_TIMEOUT_SECONDS)
    first = stepper.busy_seconds
    while stepper.busy_seconds == first:
        pass
    assert stepper.busy_seconds > first
    stepper.cancel((0, 0))
    backend.released.set()
    while stepper.busy_seconds:
        pass  # It becomes idle.
    stepper.stop()
    thread.join(TEST_TIMEOUT_SECONDS)


@pytest.mark.parametrize("before", [0, 3 * MAX_QUEUED_COMMANDS])
def test_after_a_failure_commands_are_dropped_and_block_no_thread(before: int) -> None:
    batcher = Batcher(
        FailingBackend(64), SimulatedVocabulary(), max_sequences=1, max_batched_tokens=32, host_cache_tokens=0
    )
    stepper = Stepper(batcher, max_sequences=1, max_waiting=2, publish=lambda published: None)
    stepper.add(request(0), 1, seed=1)

    def send_commands(count: int) -> None:
        for _ in range(count):
            stepper.cancel((0, 1))

    sender = threading.Thread(target=send_commands, args=(before,), daemon=True)
    sender.start()
    with pytest.raises(DecodeError):
        stepper.run()
    late_sender = threading.Thread(target=send_commands, args=(2 * MAX_QUEUED_COMMANDS,), daemon=True)
    late_sender.start()
    for thread in (sender, late_sender):
        thread.join(TEST_TIMEOUT_SECONDS)
        assert not thread.is_alive()
