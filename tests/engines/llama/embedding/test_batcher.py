"""The batcher, with a backend whose vectors show what they were computed of."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import EngineFailed
from dragoman.core.events import Embedding, Event, Usage
from dragoman.engines.llama.arrays import TokenArray
from dragoman.engines.llama.batching.sequence import RequestKey
from dragoman.engines.llama.embedding.batcher import EmbeddingBatcher, EmbeddingJob
from dragoman.engines.llama.embedding.vectors import DenseVector
from dragoman.engines.llama.native.embedding_context import Vectors

POISON = 999
"""A token whose vector has a value that is no number."""

_AS_COMPUTED = DenseVector(normalize=False)


class SumBackend:
    """The vector of a sequence is its length and the sum of its tokens."""

    max_sequences = 8

    def __init__(self, parts: int = 1) -> None:
        self.parts = parts
        self.batches: list[list[int]] = []
        """The lengths of the sequences of each batch."""

    def compute(self, sequences: Sequence[TokenArray]) -> Vectors:
        self.batches.append([len(sequence) for sequence in sequences])
        vectors = [[len(tokens), np.nan if POISON in tokens else tokens.sum()] for tokens in sequences]
        return np.array(vectors, dtype=np.float32)


def job(number: int, lengths: Sequence[int], *, priority: int = 0, owner: str = "") -> EmbeddingJob:
    inputs = [np.full(length, index + 1, dtype=np.int32) for index, length in enumerate(lengths)]
    return EmbeddingJob((0, number), inputs, _AS_COMPUTED, priority=priority, owner=owner)


def batcher(backend: SumBackend, *, max_batched_tokens: int = 32, reproducible: bool = False) -> EmbeddingBatcher:
    return EmbeddingBatcher(backend, max_batched_tokens=max_batched_tokens, reproducible=reproducible)


def decode(values: bytes) -> list[float]:
    return [float(value) for value in np.frombuffer(values, dtype="<f4")]


def run(steps: EmbeddingBatcher) -> dict[RequestKey, list[Event | BaseException]]:
    events: dict[RequestKey, list[Event | BaseException]] = {}
    while not steps.is_idle:
        for key, event in steps.step():
            events.setdefault(key, []).append(event)
    return events


@given(st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=20), min_size=1, max_size=6))
def test_every_input_is_computed_once_within_the_limits_of_a_batch(requests: list[list[int]]) -> None:
    backend = SumBackend()
    steps = batcher(backend)
    for number, lengths in enumerate(requests):
        steps.add(job(number, lengths, owner=str(number % 2)))
    events = run(steps)
    for number, lengths in enumerate(requests):
        *vectors, usage = events[0, number]
        values = {
            event.index: np.frombuffer(event.values, dtype="<f4").tolist()
            for event in vectors
            if isinstance(event, Embedding)
        }
        assert values == {index: [length, length * (index + 1)] for index, length in enumerate(lengths)}
        assert len(vectors) == len(lengths)
        assert usage == Usage(sum(lengths), 0, 0)
    for batch in backend.batches:
        assert len(batch) == 1 or (sum(batch) <= 32 and len(batch) <= backend.max_sequences)


def test_short_inputs_fill_the_batch_beside_a_long_one() -> None:
    backend = SumBackend()
    steps = batcher(backend)
    steps.add(job(0, [2, 30, 1, 1]))
    run(steps)
    assert backend.batches == [[30, 2], [1, 1]]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=40))
def test_a_batch_of_several_parts_has_room_for_its_longest_input_in_each_of_them(lengths: list[int]) -> None:
    backend = SumBackend(parts=3)
    steps = batcher(backend)
    steps.add(job(0, lengths))
    run(steps)
    assert sorted(length for batch in backend.batches for length in batch) == sorted(lengths)
    for batch in backend.batches:
        assert sum(batch) <= 3 * max(32, *batch)


def test_as_many_long_inputs_share_a_batch_as_it_has_parts() -> None:
    backend = SumBackend(parts=2)
    steps = batcher(backend)
    steps.add(job(0, [40, 40, 30, 30]))
    run(steps)
    assert backend.batches == [[40, 40], [30, 30]]


def test_a_small_request_does_not_wait_for_a_large_one() -> None:
    backend = SumBackend()
    steps = batcher(backend)
    steps.add(job(0, [10] * 100))
    steps.step()
    steps.add(job(1, [10]))
    assert ((0, 1), Usage(10, 0, 0)) in steps.step()


def test_owners_take_turns_by_tokens_however_many_requests_they_have() -> None:
    backend = SumBackend()
    steps = batcher(backend, max_batched_tokens=40)
    for number in range(9):
        steps.add(job(number, [10] * 20, owner="many"))
    steps.add(job(9, [10] * 20, owner="one"))
    served = [key for _ in range(6) for key, event in steps.step() if isinstance(event, Embedding)]
    assert served.count((0, 9)) == len(served) / 2


def test_an_owner_that_comes_late_is_not_preferred_for_it() -> None:
    steps = batcher(SumBackend(), max_batched_tokens=40)
    steps.add(job(0, [10] * 100, owner="first"))
    for _ in range(10):
        steps.step()
    steps.add(job(1, [10] * 100, owner="second"))
    served = [key for _ in range(4) for key, _ in steps.step()]
    assert served.count((0, 0)) == served.count((0, 1))


def test_urgent_requests_come_first() -> None:
    steps = batcher(SumBackend())
    steps.add(job(0, [30, 30], priority=256))
    steps.add(job(1, [30, 30]))
    assert [key for _ in range(4) for key, event in steps.step() if isinstance(event, Embedding)] == [
        (0, 1),
        (0, 1),
        (0, 0),
        (0, 0),
    ]


def test_a_cancelled_request_computes_nothing_more() -> None:
    backend = SumBackend()
    steps = batcher(backend)
    steps.add(job(0, [30] * 5))
    steps.step()
    steps.cancel((0, 0))
    assert steps.is_idle
    assert steps.step() == []
    assert len(backend.batches) == 1


def test_reproducible_batches_have_one_input() -> None:
    backend = SumBackend()
    steps = batcher(backend, reproducible=True)
    steps.add(job(0, [1, 2, 3]))
    run(steps)
    assert backend.batches == [[3], [2], [1]]


def test_values_that_are_no_numbers_fail_their_request_only() -> None:
    steps = batcher(SumBackend())
    spoiled = EmbeddingJob((0, 0), [np.array([POISON], dtype=np.int32)] * 2, _AS_COMPUTED)
    steps.add(spoiled)
    steps.add(job(1, [3]))
    events = run(steps)
    [failure] = events[0, 0]
    assert isinstance(failure, EngineFailed)
    assert isinstance(events[0, 1][-1], Usage)
