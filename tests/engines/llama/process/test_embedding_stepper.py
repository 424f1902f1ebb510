"""Which requests the stepper of a model for embeddings accepts."""

from collections.abc import Sequence

import numpy as np

from dragoman.core.errors import Overloaded
from dragoman.core.events import Usage
from dragoman.engines.llama.arrays import TokenArray
from dragoman.engines.llama.batching.batcher import RequestOutput
from dragoman.engines.llama.embedding.batcher import EmbeddingBatcher, EmbeddingJob
from dragoman.engines.llama.embedding.vectors import DenseVector
from dragoman.engines.llama.native.embedding_context import Vectors
from dragoman.engines.llama.process.embedding_stepper import EmbeddingStepper


class OnesBackend:
    max_sequences = 1
    parts = 1

    def compute(self, sequences: Sequence[TokenArray]) -> Vectors:
        return np.ones((len(sequences), 1), dtype=np.float32)


def job(number: int, *, owner: str = "", priority: int = 0) -> EmbeddingJob:
    tokens = np.array([1], dtype=np.int32)
    return EmbeddingJob((0, number), [tokens], DenseVector(), owner=owner, priority=priority)


def run(jobs: Sequence[EmbeddingJob], *, max_waiting: int) -> tuple[set[int], set[int]]:
    """Run jobs that arrive together. Return the numbers of the answered ones, and those of the refused ones."""
    answered, refused = set[int](), set[int]()

    def publish(published: list[RequestOutput]) -> None:
        for (_, number), event in published:
            if isinstance(event, Usage):
                answered.add(number)
            elif isinstance(event, Overloaded):
                refused.add(number)
        if len(answered | refused) == len(jobs):
            stepper.stop()

    batcher = EmbeddingBatcher(OnesBackend(), max_batched_tokens=1, reproducible=False)
    stepper = EmbeddingStepper(batcher, max_waiting=max_waiting, publish=publish)
    for each in jobs:
        stepper.add(each)
    stepper.run()
    return answered, refused


def test_requests_beyond_the_limit_are_refused() -> None:
    assert run([job(number) for number in range(4)], max_waiting=2) == ({0, 1}, {2, 3})


def test_an_owner_with_many_requests_makes_room_for_one_with_few() -> None:
    jobs = [*(job(number, owner="many") for number in range(3)), job(3, owner="few")]
    assert run(jobs, max_waiting=3) == ({0, 1, 3}, {2})


def test_a_queued_request_displaces_no_urgent_one() -> None:
    jobs = [*(job(number, owner="many") for number in range(3)), job(3, owner="few", priority=256)]
    assert run(jobs, max_waiting=3) == ({0, 1, 2}, {3})
