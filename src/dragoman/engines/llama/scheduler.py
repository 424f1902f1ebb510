"""Which sequences compute how many tokens in the next step. The whole decision is `Scheduler.choose`."""

from bisect import insort
from typing import NamedTuple

from dragoman.engines.llama.cache import Match, PrefixCache
from dragoman.engines.llama.sequence import Sequence

WORTH_WAITING = 32
"""A prefix that another sequence is computing is waited for when that saves at least so many tokens."""

SMALL_STEP = 63
"""From 64 tokens on ggml computes attention in tiles of queries."""

HEADROOM = 16
"""Steps that the running sequences must be able to go on before another one is let in beside them."""


def largest_step(parallel: int, step_tokens: int) -> int:
    """The most tokens one step computes, when `parallel` sequences decode or prefill computes `step_tokens`."""
    return max(step_tokens, parallel)


class Work(NamedTuple):
    """Compute `length` tokens of `sequence`, beginning at `position`; their cells are taken already."""

    sequence: Sequence
    position: int
    length: int

    @property
    def is_last(self) -> bool:
        """Whether a token can be sampled after it."""
        return self.position + self.length == self.sequence.length


class Scheduler:
    """Continuous batching: steps of prefill and of decoding take turns, and in each the oldest sequence goes first.

    They do not share a step: from 64 tokens on ggml computes attention in tiles of queries, each passing over all cells
    that any of its queries may see, and decoding queries of many sequences see all of them. benchmarks/README.md has
    the measurement.

    An adapter changes the model for a whole step, so adapters take turns too, each of them with its own alternation.
    """

    def __init__(self, cache: PrefixCache, parallel: int, step_tokens: int) -> None:
        """`parallel` sequences hold a slot at once; prefill gets `step_tokens` tokens of a step."""
        self._cache = cache
        self._parallel = parallel
        self._step_tokens = step_tokens
        self._turns: dict[int, bool] = {}
        """Adapters with work, the one whose last step is longest ago first; whether its next step is prefill."""
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []

    def choose(self) -> list[Work]:
        """The work of the next step, all with one adapter; empty only when nothing is running or waiting."""
        for adapter, prefill_is_next in list(self._turns.items()):
            steps = (self._prefill, self._decode) if prefill_is_next else (self._decode, self._prefill)
            for step in steps:
                if work := step(adapter):
                    del self._turns[adapter]
                    self._turns[adapter] = step == self._decode
                    return work
            if not any(sequence.adapter == adapter for sequence in (*self.running, *self.waiting)):
                del self._turns[adapter]
        return []

    def _decode(self, adapter: int) -> list[Work]:
        """What every sequence whose prompt is computed has pending; the youngest make room when cells run out.

        That is one token, or a few more where a grammar forces them.
        """
        work: list[Work] = []
        decoding = [one for one in self.running if one.is_decoding and one.adapter == adapter]
        spare = max(0, min(SMALL_STEP, self._step_tokens) - len(decoding))
        for sequence in decoding:
            taken = self._take(sequence, 1 + spare)
            if taken is not None:
                work.append(taken)
                spare -= taken.length - 1
        return work

    def _prefill(self, adapter: int) -> list[Work]:
        """Prompt tokens of running sequences, then of waiting ones that can be let in."""
        work: list[Work] = []
        budget = self._step_tokens
        running = len(self.running)
        for sequence in [one for one in self.running if not one.is_decoding and one.adapter == adapter]:
            taken = self._take(sequence, budget)
            if taken is not None:
                work.append(taken)
                budget -= taken.length
        if len(self.running) < running:
            return work  # Someone was pushed back; letting others in now would push it back again.
        slots_kept = cells_kept = 0  # for older ones whose adapter's turn is yet to come
        for sequence in list(self.waiting):
            if budget <= 0 or len(self.running) + slots_kept >= self._parallel:
                break
            if sequence.adapter != adapter:
                slots_kept += 1
                cells_kept += sequence.pending + HEADROOM
                continue
            if not self.running:
                self._cache.renew(sequence.pending + HEADROOM)
            match = self._cache.match(sequence, self.running)
            if match.promised - match.length >= WORTH_WAITING:
                continue
            if sequence.pending - len(match.cells) > self._room() - cells_kept:
                break
            self._admit(sequence, match)
            taken = self._take(sequence, budget)
            if taken is not None:
                work.append(taken)
                budget -= taken.length
        return work

    def add(self, sequence: Sequence) -> None:
        """Put a sequence into its place among the waiting ones."""
        insort(self.waiting, sequence, key=lambda waiting: waiting.order)
        self._turns.setdefault(sequence.adapter, True)

    def remove(self, sequence: Sequence) -> None:
        """Take out a cancelled sequence, wherever it is, and free its cells."""
        (self.running if sequence in self.running else self.waiting).remove(sequence)
        self._cache.release(sequence)

    def finish(self, sequence: Sequence) -> None:
        """Take out a finished sequence; its cells stay as cache."""
        self.running.remove(sequence)
        self._cache.retain(sequence, self.running)

    def _take(self, sequence: Sequence, most: int) -> Work | None:
        """Up to `most` pending tokens of a running sequence, pushing back the youngest ones to find cells."""
        position, count = sequence.computed, min(sequence.pending, most, sequence.most_at_once)
        if count <= 0 or sequence.sequence_id is None:
            return None
        while not self._cache.extend(sequence, count):
            youngest = self.running[-1]
            self._push_back(youngest)
            if youngest is sequence:
                return None
        return Work(sequence, position, count)

    def _room(self) -> int:
        """Cells a newcomer may count on, after what the running sequences are about to need."""
        spoken_for = sum(sequence.pending + HEADROOM for sequence in self.running)
        return self._cache.available(self.running) - spoken_for

    def _admit(self, sequence: Sequence, match: Match) -> None:
        self.waiting.remove(sequence)
        self._cache.begin(sequence, match, self.running)
        if sequence.job.cached_tokens is None:
            sequence.job.cached_tokens = sequence.computed
        insort(self.running, sequence, key=lambda running: running.order)

    def _push_back(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._cache.retain(sequence, self.running)
        self.add(sequence)
