"""Compute a step in several contexts: one after another, or side by side with a part of the threads each."""

import concurrent.futures
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dragoman.engines.llama.arrays import Logits
from dragoman.engines.llama.native.backend import Chunk
from dragoman.engines.llama.native.context import LlamaContext
from dragoman.engines.llama.native.parallel_contexts import split_evenly

_MAX_IMBALANCE = 1.2
"""Contexts are computed one after another, with all threads, if side by side they would take longer than this."""


class _Part(NamedTuple):
    """What a step computes in one context."""

    context: LlamaContext
    chunks: list[Chunk]
    rows: list[int]
    """Where the step's logits have those of the chunks."""


class PartitionedDecoder:
    """Decodes with contexts of one model that have the threads together. Not thread-safe."""

    def __init__(self, threads: int, contexts: int, step_cells: int) -> None:
        """`contexts`: the most of them. `step_cells`: as in Backend."""
        self._threads = threads
        self._step_cells = step_cells
        workers = max(1, min(threads, contexts) - 1)
        self._executor = concurrent.futures.ThreadPoolExecutor(workers, "partition")

    def decode(self, chunks: Sequence[Chunk], contexts: Sequence[LlamaContext]) -> Logits:
        """Decode each chunk in its context, and return float32[outputs of all, vocabulary] in their order.

        Raises DecodeError.
        """
        parts = _parts(chunks, contexts)
        logits = np.empty((sum(chunk.outputs for chunk in chunks), contexts[0].vocabulary_size), dtype=np.float32)
        shares = self._shares(parts)
        threads = self._threads // len(shares)
        others = [self._executor.submit(_compute, share, threads, logits) for share in shares[1:]]
        try:
            _compute(shares[0], threads, logits)
        finally:
            concurrent.futures.wait(others)
        for other in others:
            other.result()
        return logits

    def _shares(self, parts: Sequence[_Part]) -> list[list[_Part]]:
        """Divide the parts among threads, each of which computes some of them. One share is computed by all threads."""
        costs = [self._cost(part.chunks) for part in parts]
        shares = split_evenly(costs, self._threads)
        longest = max(sum(costs[index] for index in share) for share in shares)
        if longest * len(shares) > _MAX_IMBALANCE * sum(costs):
            return [list(parts)]
        return [[parts[index] for index in share] for share in shares]

    def _cost(self, chunks: Sequence[Chunk]) -> int:
        """Estimate what a step of one context takes, in cells that a token attends to: at most those of all chunks."""
        cells = sum(chunk.position + len(chunk.tokens) for chunk in chunks)
        return self._step_cells + sum(len(chunk.tokens) for chunk in chunks) * cells

    def close(self) -> None:
        """End the threads. The contexts remain."""
        self._executor.shutdown()


def _parts(chunks: Sequence[Chunk], contexts: Sequence[LlamaContext]) -> list[_Part]:
    parts: dict[int, _Part] = {}
    row = 0
    for chunk, context in zip(chunks, contexts, strict=True):
        part = parts.setdefault(id(context), _Part(context, [], []))
        part.chunks.append(chunk)
        part.rows.extend(range(row, row + chunk.outputs))
        row += chunk.outputs
    return list(parts.values())


def _compute(parts: Sequence[_Part], threads: int, logits: Logits) -> None:
    """Compute one part after another, and copy the logits to their rows."""
    for part in parts:
        part.context.use_threads(threads)
        done = 0
        for batch in split_into_batches(part.chunks, part.context.batch_tokens):
            computed = part.context.decode(batch)
            logits[part.rows[done : done + len(computed)]] = computed
            done += len(computed)


def split_into_batches(chunks: Sequence[Chunk], size: int) -> Iterator[list[Chunk]]:
    """Yield batches of at most `size` tokens, which compute the chunks in their order."""
    batch: list[Chunk] = []
    room = size
    for chunk in chunks:
        rest = chunk
        while len(rest.tokens) > room:
            first, rest = _split(rest, room)
            yield [*batch, first] if room else batch
            batch, room = [], size
        batch.append(rest)
        room -= len(rest.tokens)
    yield batch


def _split(chunk: Chunk, length: int) -> tuple[Chunk, Chunk]:
    """Return the first `length` tokens of a chunk, and the others."""
    outputs = min(chunk.outputs, len(chunk.tokens) - length)
    first = chunk._replace(tokens=chunk.tokens[:length], outputs=chunk.outputs - outputs)
    return first, chunk._replace(position=chunk.position + length, tokens=chunk.tokens[length:], outputs=outputs)
