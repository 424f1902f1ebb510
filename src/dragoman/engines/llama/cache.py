"""Who holds which KV cells: sharing prefixes between sequences, and keeping finished ones for later requests."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from dragoman.engines.llama.backend import MAX_SEQUENCE_IDS, Backend
from dragoman.engines.llama.cells import NO_CELLS, CellLedger, Cells
from dragoman.engines.llama.model import TokenArray
from dragoman.engines.llama.sequence import Sequence


class Match(NamedTuple):
    """The longest beginning of a sequence that the cache holds, or will hold."""

    source: int | None
    """The sequence id to share from; None: nothing matches."""
    cells: Cells
    """The cells to share, one a token."""
    promised: int
    """Tokens that could be shared once every running sequence has computed what it knows."""


class _Finished:
    """A finished sequence, kept as cache until its cells are needed."""

    def __init__(self, sequence_id: int, tokens: TokenArray, cells: Cells, last_used: int) -> None:
        self.sequence_id = sequence_id
        self.tokens = tokens
        self.cells = cells
        self.last_used = last_used


class PrefixCache:
    """Hands sequence ids and cells to running sequences and takes them back."""

    def __init__(self, backend: Backend, finished_cells: int) -> None:
        """`finished_cells`: at most so many cells are kept for finished sequences alone.

        Fewer are kept while the running ones need much: used cells shall stay under half of all. llama.cpp's attention
        passes over every cell up to the highest used one, so that each idle cell costs every step something;
        docs/architecture.md has the measurement.
        """
        self._backend = backend
        self._finished_limit = finished_cells
        self._finished: list[_Finished] = []
        self._free_ids = list(range(MAX_SEQUENCE_IDS))
        self._clock = 0
        self.ledger = CellLedger(backend.cells)

    def match(self, tokens: TokenArray, running: Iterable[Sequence]) -> Match:
        """The best source for `tokens`, whose last token is never shared: its logits must be computed."""
        wanted = tokens[:-1]
        source, cells, promised = None, NO_CELLS, 0
        for entry in self._finished:
            length = _common_prefix(wanted, entry.tokens)
            if length > len(cells):
                source, cells = entry.sequence_id, entry.cells[:length]
        for sequence in running:
            common = _common_prefix(wanted, sequence.tokens)
            promised = max(promised, common)
            length = min(common, sequence.computed)
            if length > len(cells):
                source, cells = sequence.sequence_id, sequence.cells[:length]
        return Match(source, cells, max(promised, len(cells)))

    def begin(self, sequence: Sequence, match: Match) -> None:
        """Give the sequence an id and the cells it shares."""
        for entry in self._finished:
            if entry.sequence_id == match.source:
                entry.last_used = self._tick()
        if not self._free_ids:
            self._evict()
        sequence.sequence_id = self._free_ids.pop()
        if match.source is not None:
            self._backend.share(match.source, sequence.sequence_id, len(match.cells))
            self.ledger.share(match.cells)
            sequence.cells = match.cells.copy()
            sequence.computed = len(match.cells)

    def extend(self, sequence: Sequence, count: int) -> bool:
        """Give the sequence `count` more cells, if need be those of finished sequences; False: there are none."""
        while self.ledger.free < count:
            if not self._finished:
                return False
            self._evict()
        sequence.cells = np.concatenate((sequence.cells, self.ledger.take(count)))
        return True

    def available(self, running: Iterable[Sequence]) -> int:
        """Cells that no running sequence holds: free ones and those of finished sequences."""
        held = np.zeros(self.ledger.total, dtype=np.bool_)
        for sequence in running:
            held[sequence.cells] = True
        return self.ledger.total - int(np.count_nonzero(held))

    def release(self, sequence: Sequence) -> None:
        """Take id and cells from a sequence that is cancelled or pushed back."""
        if sequence.sequence_id is not None:
            self._give_back(sequence.sequence_id, sequence.cells)
            sequence.sequence_id, sequence.cells, sequence.computed = None, NO_CELLS, 0

    def retain(self, sequence: Sequence, running: Iterable[Sequence]) -> None:
        """Keep a finished sequence as cache; it gives up its id and cells to it."""
        assert sequence.sequence_id is not None, "only a sequence that ran can finish"
        tokens = sequence.tokens[: sequence.computed].copy()
        for entry in list(self._finished):
            if _common_prefix(entry.tokens, tokens) == len(entry.tokens):
                self._drop(entry)
        self._finished.append(_Finished(sequence.sequence_id, tokens, sequence.cells, self._tick()))
        sequence.sequence_id, sequence.cells = None, NO_CELLS
        available = self.available(running)
        most = min(self._finished_limit, max(0, available - self.ledger.total // 2))
        while available - self.ledger.free > most:
            self._evict()

    @property
    def free_sequence_ids(self) -> int:
        """Ids no sequence has."""
        return len(self._free_ids)

    def clear(self) -> None:
        """Forget all finished sequences."""
        while self._finished:
            self._evict()

    def _evict(self) -> None:
        self._drop(min(self._finished, key=lambda entry: entry.last_used))

    def _drop(self, entry: _Finished) -> None:
        self._finished.remove(entry)
        self._give_back(entry.sequence_id, entry.cells)

    def _give_back(self, sequence_id: int, cells: Cells) -> None:
        self._backend.forget(sequence_id)
        self._free_ids.append(sequence_id)
        self.ledger.release(cells)

    def _tick(self) -> int:
        self._clock += 1
        return self._clock


def _common_prefix(left: TokenArray, right: TokenArray) -> int:
    """Length of the longest common beginning."""
    length = min(len(left), len(right))
    if not length or left[0] != right[0]:
        return 0
    different = left[:length] != right[:length]
    first = int(different.argmax())
    return first if different[first] else length
