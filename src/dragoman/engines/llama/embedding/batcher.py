"""The batcher of a model for embeddings: many short inputs of many requests in each batch.

llama.cpp pads nothing, so that inputs of all lengths may share a batch. Requests take turns by the tokens that were
computed for them, and so do their owners; a request's longest inputs come first, and shorter ones fill the batch.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from dragoman.core.errors import EngineFailed
from dragoman.core.events import Embedding, Usage
from dragoman.engines.llama.arrays import TokenArray
from dragoman.engines.llama.batching.batcher import RequestOutput
from dragoman.engines.llama.batching.sequence import RequestKey
from dragoman.engines.llama.embedding.vectors import VectorFormat
from dragoman.engines.llama.native.embedding_context import Vectors


class EmbeddingBackend(Protocol):
    """Computes the vectors of sequences. Not thread-safe."""

    @property
    def max_sequences(self) -> int:
        """The most sequences of a batch."""
        ...

    @property
    def parts(self) -> int:
        """The most parts of a batch that are computed at the same time."""
        ...

    def compute(self, sequences: Sequence[TokenArray]) -> Vectors:
        """Compute one vector for each sequence. Raises DecodeError."""
        ...


class EmbeddingJob:
    """A request's inputs that are still to be computed."""

    def __init__(
        self,
        key: RequestKey,
        inputs: Sequence[TokenArray],
        vector_format: VectorFormat,
        *,
        priority: int = 0,
        owner: str = "",
    ) -> None:
        self.key = key
        self.priority = priority
        self.owner = owner
        self.vector_format = vector_format
        self.tokens = sum(map(len, inputs))
        self.served = 0
        """Tokens computed for it, and for others before it came: the turns it has had."""
        self._inputs = inputs
        self._indices = sorted(range(len(inputs)), key=lambda index: len(inputs[index]))
        """Of the inputs that remain, shortest first."""

    @property
    def remaining(self) -> int:
        """The number of inputs that remain."""
        return len(self._indices)

    @property
    def shortest(self) -> int:
        """The tokens of the shortest input that remains."""
        return len(self._inputs[self._indices[0]])

    def take(self, room: int | None) -> tuple[int, TokenArray]:
        """Remove the longest input of at most `room` tokens; None: of any length. There is one."""
        count = len(self._indices)
        if room is not None:
            count = bisect_right(self._indices, room, key=lambda index: len(self._inputs[index]))
        index = self._indices.pop(count - 1)
        return index, self._inputs[index]


class EmbeddingBatcher:
    """All requests of one model. Every method is called from the thread that owns the backend."""

    def __init__(self, backend: EmbeddingBackend, *, max_batched_tokens: int, reproducible: bool) -> None:
        """`max_batched_tokens`: of a part of a batch with several inputs. `reproducible`: compute each input alone."""
        self._backend = backend
        self._max_batched_tokens = max_batched_tokens
        self._max_sequences = 1 if reproducible else backend.max_sequences
        self._jobs: dict[RequestKey, EmbeddingJob] = {}
        self._owners: dict[str, int] = {}
        """Each owner's tokens served, counted as those of a job are."""

    @property
    def is_idle(self) -> bool:
        """Whether a step would do nothing."""
        return not self._jobs

    @property
    def jobs(self) -> Sequence[EmbeddingJob]:
        """The requests that have not ended, oldest first."""
        return tuple(self._jobs.values())

    def add(self, job: EmbeddingJob) -> None:
        """Queue the job. Those that wait already have no advantage over it, and no disadvantage."""
        siblings = [other.served for other in self._jobs.values() if other.owner == job.owner]
        job.served = min(siblings, default=0)
        if not siblings:
            active = {other.owner for other in self._jobs.values()}
            self._owners = {owner: served for owner, served in self._owners.items() if owner in active}
            self._owners[job.owner] = min(self._owners.values(), default=0)
        self._jobs[job.key] = job

    def cancel(self, key: RequestKey) -> None:
        """Drop the request if it has not ended. It gives no more output."""
        self._jobs.pop(key, None)

    def use_idle_time(self) -> bool:
        """Do nothing: there is no optional work."""
        return False

    def step(self) -> list[RequestOutput]:
        """Compute one batch, and return its vectors. Raises DecodeError."""
        if not self._jobs:
            return []
        batch = self._choose()
        vectors = self._backend.compute([tokens for _, _, tokens in batch])
        outputs: list[RequestOutput] = []
        for (job, index, _), vector in zip(batch, vectors, strict=True):
            if job.key in self._jobs:
                outputs.append(self._output(job, index, vector))
        return outputs + self._finish()

    def _output(self, job: EmbeddingJob, index: int, vector: Vectors) -> RequestOutput:
        if not np.isfinite(vector).all():
            del self._jobs[job.key]
            return RequestOutput(job.key, EngineFailed(f"The vector of input {index} has values that are no numbers"))
        return RequestOutput(job.key, Embedding(index, job.vector_format.encode(vector)))

    def _finish(self) -> list[RequestOutput]:
        complete = [job for job in self._jobs.values() if not job.remaining]
        for job in complete:
            del self._jobs[job.key]
        return [RequestOutput(job.key, Usage(job.tokens, 0, 0)) for job in complete]

    def _choose(self) -> list[tuple[EmbeddingJob, int, TokenArray]]:
        """Choose the inputs of the next batch. One may have more tokens than a part of several, and then all may."""
        batch: list[tuple[EmbeddingJob, int, TokenArray]] = []
        room: int | None = None
        total, part = 0, self._max_batched_tokens
        while len(batch) < self._max_sequences and (job := self._next(room)):
            index, tokens = job.take(room)
            batch.append((job, index, tokens))
            job.served += len(tokens)
            self._owners[job.owner] += len(tokens)
            total += len(tokens)
            part = max(part, len(tokens))
            room = self._backend.parts * part - total
        return batch

    def _next(self, room: int | None) -> EmbeddingJob | None:
        """Return the job whose turn it is, of those with an input of at most `room` tokens."""
        fitting = [job for job in self._jobs.values() if job.remaining and (room is None or job.shortest <= room)]
        return min(fitting, key=lambda job: (job.priority, self._owners[job.owner], job.served), default=None)
