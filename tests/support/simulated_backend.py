"""A backend without a model: it keeps real account of every KV cell, and its logits depend on every token seen.

A sequence whose cells are not exactly those of its own tokens, in order, gives other tokens than it gives alone. So
the scheduler's and the cache's mistakes show as wrong answers, as they would with a model.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from dragoman.engines.llama.backend import MAX_SEQUENCE_IDS, Chunk, DecodeError, Logits

VOCABULARY_SIZE = 64
END = 0


class SimulatedVocabulary:
    """Token t is the letter at t; token 0 ends an answer."""

    end_token_ids = frozenset({END})

    def piece(self, token: int) -> bytes:
        return bytes((ord("A") + token,)) if token else b""

    def is_special(self, token: int) -> bool:
        return token == END


def next_token(context: Sequence[int]) -> int:
    """The model: a hash of all the tokens before. Ends about every 30 tokens."""
    digest = hashlib.blake2b(np.array(context, dtype=np.int32).tobytes(), digest_size=4).digest()
    number = int.from_bytes(digest, "little")
    return END if number % 30 == 0 else 1 + number % (VOCABULARY_SIZE - 1)


class SimulatedBackend:
    """Implements Backend with llama.cpp's rules for a unified cache, and complains when they are broken."""

    vocabulary_size = VOCABULARY_SIZE

    def __init__(self, cells: int) -> None:
        self.cells = cells
        self._contexts: dict[int, list[tuple[int, int]]] = {}
        """For each sequence id, its (cell, token) pairs by position."""
        self._references: dict[int, int] = {}
        self._next_cell = 0
        self.steps = 0

    @property
    def used(self) -> int:
        """Cells at least one sequence refers to."""
        return len(self._references)

    def decode(self, chunks: Sequence[Chunk]) -> Logits:
        self.steps += 1
        rows = []
        for chunk in chunks:
            assert 0 <= chunk.sequence_id < MAX_SEQUENCE_IDS
            context = self._contexts.setdefault(chunk.sequence_id, [])
            assert chunk.position == len(context), "positions of a sequence are consecutive"
            for token in chunk.tokens.tolist():
                context.append((self._take_cell(), token))
            if chunk.wants_logits:
                rows.append(next_token([token for _, token in context]))
        logits = np.zeros((len(rows), VOCABULARY_SIZE), dtype=np.float32)
        logits[np.arange(len(rows)), rows] = 1.0
        return logits

    def share(self, source: int, target: int, length: int) -> None:
        assert not self._contexts.get(target), "only an empty sequence begins with another one's cells"
        shared = self._contexts[source][:length]
        assert len(shared) == length, "only computed cells are shared"
        for cell, _ in shared:
            self._references[cell] += 1
        self._contexts[target] = list(shared)

    def forget(self, sequence_id: int) -> None:
        for cell, _ in self._contexts.pop(sequence_id, []):
            self._references[cell] -= 1
            if not self._references[cell]:
                del self._references[cell]

    def _take_cell(self) -> int:
        if self.used >= self.cells:
            raise DecodeError("llama_decode would return 1: no free cells")
        self._next_cell += 1
        self._references[self._next_cell] = 1
        return self._next_cell


def answer_alone(prompt: Sequence[int], limit: int) -> list[int]:
    """What the model says to `prompt` when nobody else is there: at most `limit` tokens, END included."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + limit:
        tokens.append(next_token(tokens))
        if tokens[-1] == END:
            break
    return tokens[len(prompt) :]
