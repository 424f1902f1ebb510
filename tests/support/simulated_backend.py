"""A backend without a model: it tracks every KV cell, and its logits depend on every token of a sequence.

A sequence gives other tokens than it gives alone unless its cells are exactly those of its own tokens, in order, each
computed with its own adapter. So mistakes of the scheduler and the cache show as wrong answers, as with a model.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from dragoman.engines.llama.arrays import Logits, SequenceState
from dragoman.engines.llama.native.backend import NO_ADAPTER, SEQUENCE_IDS, Chunk, DecodeError

VOCABULARY_SIZE = 64
END = 0
ALL_TOKENS = 2**31 - 1
"""More tokens than any sequence has."""


class SimulatedVocabulary:
    """Token t is the letter at t; token 0 ends an answer."""

    end_token_ids = frozenset({END})

    def piece(self, token: int) -> bytes:
        return bytes((ord("A") + token,)) if token else b""

    def is_special(self, token: int) -> bool:
        return token == END


def cell_content(token: int, adapter: int) -> int:
    """Return the content of a cell, which depends on the token and the adapter."""
    return token + VOCABULARY_SIZE * adapter


def next_token(context: Iterable[int]) -> int:
    """The model: a hash of the contents of all cells before. About every 30th token ends the answer."""
    digest = hashlib.blake2b(np.array(list(context), dtype=np.int32).tobytes(), digest_size=4).digest()
    number = int.from_bytes(digest, "little")
    return END if number % 30 == 0 else 1 + number % (VOCABULARY_SIZE - 1)


class SimulatedBackend:
    """Implements Backend, and asserts llama.cpp's rules for a unified cache."""

    def __init__(
        self,
        cells: int,
        *,
        reuses_cells: bool = True,
        divisible_tokens: int = ALL_TOKENS,
        sequence_ids: int = SEQUENCE_IDS,
        model: Callable[[Iterable[int]], int] = next_token,
        vocabulary_size: int = VOCABULARY_SIZE,
        partitions: int = 1,
        step_cells: int = 0,
    ) -> None:
        """`divisible_tokens`: one less than the sliding window; 0 stands for a recurrent state.

        `model`: from the contents of a sequence's cells to the token with the logit 1. All other logits are 0."""
        self._model = model
        self.vocabulary_size = vocabulary_size
        self.cells = cells
        self.reuses_cells = reuses_cells
        self.divisible_tokens = divisible_tokens
        self._first_positions: dict[int, int] = {}
        """Sequence id → the position from which on all layers have its cells."""
        self.sequence_ids = sequence_ids
        self.partitions = partitions
        self.step_cells = step_cells
        self._partitions = [0] * sequence_ids
        """Sequence id → the partition of its cells."""
        self.spent = 0
        self._contexts: dict[int, dict[int, tuple[int, int]]] = {}
        """Sequence id → position → (cell, content)."""
        self.adapters: set[int] = set()
        self._last_adapter_number = NO_ADAPTER
        self._references: dict[int, int] = {}
        """Cell → the number of its sequences. The cells of a partition are those with its number as remainder."""
        self._next_cell = 0
        self.batches: list[list[int]] = []
        """The number of tokens of each chunk, for every step."""
        self.outputs: list[list[int]] = []
        """The number of outputs of each chunk, for every step."""
        self.adapters_by_step: list[int] = []
        """The adapter of every step."""

    @property
    def used_cells(self) -> int:
        """Number of cells that at least one sequence refers to."""
        return len(self._references)

    def used_in_partition(self, partition: int) -> int:
        """Return the number of cells of a partition that at least one sequence refers to."""
        if self.partitions == 1:
            return len(self._references)
        return sum(cell % self.partitions == partition for cell in self._references)

    def place(self, sequence_id: int, partition: int) -> int:
        assert not self._contexts.get(sequence_id), "only an empty sequence is placed"
        self._partitions[sequence_id] = partition
        return partition

    def decode(self, chunks: Sequence[Chunk], adapter: int = NO_ADAPTER) -> Logits:
        assert adapter == NO_ADAPTER or adapter in self.adapters, "an adapter is loaded as long as it is used"
        self.batches.append([len(chunk.tokens) for chunk in chunks])
        self.outputs.append([chunk.outputs for chunk in chunks])
        self.adapters_by_step.append(adapter)
        rows = []
        for chunk in chunks:
            assert 0 <= chunk.sequence_id < self.sequence_ids
            context = self._contexts.setdefault(chunk.sequence_id, {})
            assert sorted(context) == list(range(chunk.position)), "positions of a sequence are consecutive"
            assert self.can_share(chunk.sequence_id, chunk.position), "the cells in the sliding window are there"
            for position, token in enumerate(chunk.tokens.tolist(), chunk.position):
                context[position] = (self._allocate_cell(chunk.sequence_id), cell_content(token, adapter))
            if len(context) % 3 or not self.divisible_tokens:  # Cells outside a window may have been used again.
                # llama.cpp goes by the tokens before a batch, so that those at its end may be drafts.
                self._forget_before_window(chunk.sequence_id, len(context) - max(0, chunk.outputs - 1))
            lengths = range(len(context) - chunk.outputs + 1, len(context) + 1)
            rows += [self._model(context[position][1] for position in range(length)) for length in lengths]
        logits = np.zeros((len(rows), self.vocabulary_size), dtype=np.float32)
        logits[np.arange(len(rows)), rows] = 1.0
        return logits

    def load_adapter(self, path: Path, scale: float) -> int:
        self._last_adapter_number += 1
        self.adapters.add(self._last_adapter_number)
        return self._last_adapter_number

    def unload_adapter(self, adapter: int) -> None:
        self.adapters.remove(adapter)

    def can_share(self, sequence_id: int, length: int) -> bool:
        needed = max(1, self.divisible_tokens)
        return self._first_positions.get(sequence_id, 0) <= max(0, length - needed)

    def share(self, source: int, target: int, start: int, end: int) -> None:
        context = self._contexts.setdefault(target, {})
        if self.divisible_tokens < ALL_TOKENS:
            assert start == len(context) == 0, "what is shared begins with the sequence"
            assert self.can_share(source, end)
            self._first_positions[target] = self._first_positions.get(source, 0)
        shared = {position: self._contexts[source][position] for position in range(start, end)}
        assert not context.keys() & shared.keys(), "a sequence has one cell at a position"
        if self._partitions[source] != self._partitions[target]:
            shared = {position: (self._allocate_cell(target), stored) for position, (_, stored) in shared.items()}
        else:
            for cell, _ in shared.values():
                self._references[cell] += 1
        context.update(shared)

    def save(self, sequence_id: int) -> SequenceState:
        pairs = [(position, stored) for position, (_, stored) in self._contexts[sequence_id].items()]
        return np.array(pairs, dtype=np.int32).reshape(-1).view(np.uint8)

    def restore(self, sequence_id: int, state: SequenceState, adapter: int = NO_ADAPTER) -> bool:
        assert not self._contexts.get(sequence_id), "only an empty sequence is restored"
        pairs = state.view(np.int32).reshape(-1, 2).tolist()
        if self.used_in_partition(self._partitions[sequence_id]) + self.spent + len(pairs) > self.cells:
            return False
        self._contexts[sequence_id] = {
            position: (self._allocate_cell(sequence_id), stored) for position, stored in pairs
        }
        self._forget_before_window(sequence_id, len(pairs))
        return True

    def forget(self, sequence_id: int) -> None:
        self._first_positions.pop(sequence_id, None)
        self._release([cell for cell, _ in self._contexts.pop(sequence_id, {}).values()])

    def _release(self, cells: Iterable[int]) -> None:
        for cell in cells:
            self._references[cell] -= 1
            if not self._references[cell]:
                del self._references[cell]
                self.spent += not self.reuses_cells

    def truncate(self, sequence_id: int, length: int) -> None:
        assert self.divisible_tokens, "a recurrent state cannot go back"
        assert self.can_share(sequence_id, length), "the cells in the sliding window are there"
        context = self._contexts[sequence_id]
        self._release([context.pop(position)[0] for position in range(length, len(context))])

    def sweep(self) -> None:
        assert not self.used_cells, "cells are swept only while no cell has references"
        self.spent = 0

    def _forget_before_window(self, sequence_id: int, length: int) -> None:
        if length > self.divisible_tokens:
            self._first_positions[sequence_id] = length - max(1, self.divisible_tokens)

    def _allocate_cell(self, sequence_id: int) -> int:
        partition = self._partitions[sequence_id]
        if self.used_in_partition(partition) + self.spent >= self.cells:
            raise DecodeError("llama_decode would return 1: no free cells")
        self._next_cell += self.partitions
        cell = self._next_cell + partition
        self._references[cell] = 1
        return cell


def reference_answer(prompt: Sequence[int], limit: int, adapter: int = NO_ADAPTER) -> list[int]:
    """Return the answer of the model to `prompt` alone: at most `limit` tokens, including END."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + limit:
        tokens.append(next_token(cell_content(token, adapter) for token in tokens))
        if tokens[-1] == END:
            break
    return tokens[len(prompt) :]
