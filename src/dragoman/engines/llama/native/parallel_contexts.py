"""Several contexts for embeddings that compute a batch together, with one thread each.

The threads of one context wait for each other after every operation, more than a hundred times in a batch of a small
model, and each time for the slower one, if another process has its core. Contexts that share out the sequences of a
batch wait for each other once.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dragoman.engines.llama.arrays import TokenArray
from dragoman.engines.llama.native.embedding_context import EmbeddingContext, Vectors

PART_TOKENS = 512
"""The longest sequence that contexts are opened in parallel for, and half of the most tokens of a part."""

MAX_CONTEXTS = 8
"""Each of them has buffers of its own. More threads are divided among them."""

_PREFERRED_TOKENS = 256
"""Of a part of several sequences: attention passes over all its tokens, so that more of them only cost more."""


class ParallelContexts:
    """Implements embedding.batcher.EmbeddingBackend. Not thread-safe."""

    def __init__(self, contexts: Sequence[EmbeddingContext], threads: int, *, owns_model: bool = False) -> None:
        """`threads`: of all contexts together. A single sequence has them all.

        Closing it closes the contexts, and their model if it `owns_model`.
        """
        self._owns_model = owns_model
        self._contexts = contexts
        self._first = contexts[0]
        self._threads = threads
        self.model = self._first.model
        """The one that computes."""
        self.longest = self._first.longest
        """The most tokens of a sequence."""
        self.width = self._first.width
        """Values of a vector, or of a reranker's output."""
        self.max_sequences = self._first.max_sequences
        """Of all parts together: all but one of them may be in the same part."""
        self._executor = ThreadPoolExecutor(len(contexts), "embedding")

    @property
    def parts(self) -> int:
        """The most parts of a batch that are computed at the same time."""
        return len(self._contexts)

    @property
    def preferred_tokens(self) -> int | None:
        """The tokens of a part of several sequences beyond which more only cost more. None: any number."""
        return _PREFERRED_TOKENS if self.longest <= PART_TOKENS else None

    def compute(self, sequences: Sequence[TokenArray]) -> Vectors:
        """Compute one vector for each sequence. Raises DecodeError.

        If a context takes fewer tokens than all sequences have, they have at most `parts` times the larger of
        `preferred_tokens` and the longest of them.
        """
        parts = split_evenly([len(sequence) for sequence in sequences], len(self._contexts))
        self._first.use_threads(self._threads if len(parts) == 1 else self._threads // len(self._contexts))
        computed = [
            self._executor.submit(context.compute, [sequences[number] for number in part])
            for context, part in zip(self._contexts[1:], parts[1:], strict=False)
        ]
        first = self._first.compute([sequences[number] for number in parts[0]])
        vectors = np.empty((len(sequences), self.width), dtype=np.float32)
        for part, found in zip(parts, [first, *(each.result() for each in computed)], strict=True):
            vectors[part] = found
        return vectors

    def close(self) -> None:
        """Free the buffers, and the weights that belong to it."""
        self._executor.shutdown()
        for context in self._contexts:
            context.close()
        if self._owns_model:
            self.model.close()


def split_evenly(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Return the indices of each part, of which there are `parts` or fewer, so that their sums are about equal.

    The longest goes first, each to the part with the least so far (Graham 1969): the largest part has at most 4/3 of
    the tokens that the best division gives it.
    """
    chosen: list[list[int]] = [[] for _ in range(min(parts, len(lengths)))]
    sums = [0] * len(chosen)
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        least = sums.index(min(sums))
        chosen[least].append(index)
        sums[least] += lengths[index]
    return chosen
