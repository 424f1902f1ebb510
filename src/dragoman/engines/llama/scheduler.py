"""Which sequences compute how many tokens in the next step. The whole decision is `Scheduler.choose`."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dragoman.core.request import QUEUED
from dragoman.engines.llama.cache import Match, PrefixCache
from dragoman.engines.llama.sequence import Job, JobKey, Sequence

WORTH_WAITING = 32
"""A prefix that another sequence is computing is waited for when that saves at least so many tokens."""

SMALL_STEP = 63
"""From 64 tokens on ggml computes attention in tiles of queries."""

HEADROOM = 16
"""Steps that the running sequences must be able to go on before another one is let in beside them."""


def largest_step(parallel: int, step_tokens: int) -> int:
    """The most tokens one step computes, when `parallel` sequences decode or prefill computes `step_tokens`."""
    return max(step_tokens, parallel)


def waiting_jobs(sequences: Iterable[Sequence]) -> int:
    """Jobs of which no choice has a slot."""
    slots: dict[JobKey, bool] = {}
    for sequence in sequences:
        slots[sequence.job.key] = slots.get(sequence.job.key, False) or sequence.has_slot
    return sum(not has_slot for has_slot in slots.values())


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

    Sequences from the queue (core.request.QUEUED) yield to all others: nobody waits for them.
    """

    def __init__(self, cache: PrefixCache, parallel: int, step_tokens: int) -> None:
        """`parallel` sequences hold a slot at once; prefill gets `step_tokens` tokens of a step."""
        self._cache = cache
        self._parallel = parallel
        self._step_tokens = step_tokens
        self._turns: dict[int, bool] = {}
        """Adapters with work, the one whose last step is longest ago first; whether its next step is prefill."""
        self._pushed_back: list[Sequence] = []
        """In the step that is being chosen."""
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []

    def choose(self) -> list[Work]:
        """The work of the next step, all with one adapter; empty when nobody is there, or all were just pushed back."""
        self._pushed_back.clear()
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
        """Prompt tokens, as many as fit into a step."""
        work: list[Work] = []
        budget = self._step_tokens
        for sequence in self._prefilling(adapter):
            taken = self._take(sequence, budget)
            if taken is not None:
                work.append(taken)
                budget -= taken.length
            if budget <= 0:
                break
        return work

    def _prefilling(self, adapter: int) -> Iterator[Sequence]:
        """Running sequences with prompt tokens to compute, and waiting ones, each let in when it is its turn."""
        slots_kept = cells_kept = 0  # for older ones whose adapter's turn is yet to come
        is_full = False
        for sequence in self._in_turn():
            if sequence.has_slot:
                if sequence.adapter == adapter and not sequence.is_decoding:
                    yield sequence
            elif is_full or not all(one.job.yields_to(sequence.job) for one in self._pushed_back):
                continue  # Letting it in now would push it back again, or keep out who was pushed back.
            elif sequence.adapter != adapter:
                slots_kept += 1
                cells_kept += sequence.pending + HEADROOM
            elif len(self._staying(sequence)) + slots_kept >= self._parallel:
                is_full = True
            elif self._awaits_prefix(sequence):
                continue
            elif (match := self._make_way(sequence, slots_kept, cells_kept)) is None:
                is_full = True
            else:
                self._admit(sequence, match)
                yield sequence

    def _in_turn(self) -> list[Sequence]:
        """Running sequences and then waiting ones; those from the queue, of both, after all others."""
        running, waiting = self.running, self.waiting
        first, second = (bisect_left(every, QUEUED, key=lambda one: one.job.priority) for every in (running, waiting))
        return [*running[:first], *waiting[:second], *running[first:], *waiting[second:]]

    def rivals(self, job: Job) -> list[Sequence]:
        """The sequences, running and waiting, that a job has to share slots with: those that do not yield to it."""
        return [one for one in (*self.running, *self.waiting) if not one.job.yields_to(job)]

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
        if count <= 0 or not sequence.has_slot:
            return None
        while not self._cache.extend(sequence, count):
            youngest = self.running[-1]
            self._push_back(youngest)
            if youngest is sequence:
                return None
        return Work(sequence, position, count)

    def _staying(self, newcomer: Sequence) -> list[Sequence]:
        """The running sequences that are not pushed back for the newcomer. All others are younger."""
        return [one for one in self.running if not one.job.yields_to(newcomer.job)]

    def _awaits_prefix(self, sequence: Sequence) -> bool:
        """Whether a running sequence is computing enough of what this one begins with."""
        match = self._cache.match(sequence, self.running)
        return match.promised - match.length >= WORTH_WAITING

    def _make_way(self, newcomer: Sequence, slots_kept: int, cells_kept: int) -> Match | None:
        """What the newcomer begins with, after those that yield to it were pushed back as far as that is needed.

        None: it finds no slot or too few cells. Nobody is pushed back where that would not help.
        """
        while (match := self._entry(newcomer, self.running, slots_kept, cells_kept)) is None:
            staying = self._staying(newcomer)
            if len(staying) == len(self.running):
                return None
            if self._entry(newcomer, staying, slots_kept, cells_kept) is None:
                return None
            self._push_back(self.running[-1])
        return match

    def _entry(self, newcomer: Sequence, running: list[Sequence], slots_kept: int, cells_kept: int) -> Match | None:
        """What the newcomer would begin with beside these; None: there is no slot, or there are too few cells."""
        if len(running) + slots_kept >= self._parallel:
            return None
        if not self.running:
            self._cache.renew(newcomer.pending + HEADROOM)
        match = self._cache.match(newcomer, running)
        # Cells it may count on, after what the others are about to need.
        room = self._cache.available(running) - sum(one.pending + HEADROOM for one in running) - cells_kept
        return match if newcomer.pending - len(match.cells) <= room else None

    def _admit(self, sequence: Sequence, match: Match) -> None:
        self.waiting.remove(sequence)
        self._cache.begin(sequence, match, self.running)
        if sequence.job.cached_tokens is None:
            sequence.job.cached_tokens = min(sequence.computed, len(sequence.job.prompt))
        insort(self.running, sequence, key=lambda running: running.order)

    def _push_back(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._cache.retain(sequence, self.running)
        self._pushed_back.append(sequence)
        self.add(sequence)
