"""Which sequences compute how many tokens in the next step. The whole decision is `Scheduler.choose`."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dragoman.core.request import QUEUED_PRIORITY_OFFSET
from dragoman.engines.llama.batching.cache import PrefixCache, PrefixMatch
from dragoman.engines.llama.batching.sequence import ChoiceSequence, EngineRequest, RequestKey

MIN_AWAITED_PREFIX_TOKENS = 32
"""A prefix that another sequence is computing is waited for when that saves at least so many tokens."""

MAX_UNTILED_TOKENS = 63
"""From 64 tokens on ggml computes attention in tiles of queries."""

HEADROOM_STEPS = 16
"""Steps that the running sequences must be able to go on before another one is let in beside them."""


def max_batch_tokens(parallel: int, step_tokens: int) -> int:
    """The most tokens one step computes, when `parallel` sequences decode or prefill computes `step_tokens`."""
    return max(step_tokens, parallel)


def count_waiting_requests(sequences: Iterable[ChoiceSequence]) -> int:
    """Jobs of which no choice has a slot."""
    slots: dict[RequestKey, bool] = {}
    for sequence in sequences:
        slots[sequence.request.key] = slots.get(sequence.request.key, False) or sequence.has_slot
    return sum(not has_slot for has_slot in slots.values())


class ScheduledChunk(NamedTuple):
    """Compute `length` tokens of `sequence`, beginning at `position`; their cells are taken already."""

    sequence: ChoiceSequence
    position: int
    length: int

    @property
    def reaches_end(self) -> bool:
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
        self._prefill_is_next: dict[int, bool] = {}
        """Adapters with work, the one whose last step is longest ago first; whether its next step is prefill."""
        self._preempted: list[ChoiceSequence] = []
        """In the step that is being chosen."""
        self.running: list[ChoiceSequence] = []
        self.waiting: list[ChoiceSequence] = []

    def schedule(self) -> list[ScheduledChunk]:
        """The work of the next step, all with one adapter; empty when nobody is there, or all were just pushed back."""
        self._preempted.clear()
        for adapter, prefill_is_next in list(self._prefill_is_next.items()):
            steps = (self._prefill, self._decode) if prefill_is_next else (self._decode, self._prefill)
            for step in steps:
                if scheduled := step(adapter):
                    del self._prefill_is_next[adapter]
                    self._prefill_is_next[adapter] = step == self._decode
                    return scheduled
            if not any(sequence.adapter == adapter for sequence in (*self.running, *self.waiting)):
                del self._prefill_is_next[adapter]
        return []

    def _decode(self, adapter: int) -> list[ScheduledChunk]:
        """What every sequence whose prompt is computed has pending; the youngest make room when cells run out.

        That is one token, or a few more where a grammar forces them.
        """
        scheduled: list[ScheduledChunk] = []
        decoding = [one for one in self.running if one.is_decoding and one.adapter == adapter]
        spare = max(0, min(MAX_UNTILED_TOKENS, self._step_tokens) - len(decoding))
        for sequence in decoding:
            chunk = self._schedule_chunk(sequence, 1 + spare)
            if chunk is not None:
                scheduled.append(chunk)
                spare -= chunk.length - 1
        return scheduled

    def _prefill(self, adapter: int) -> list[ScheduledChunk]:
        """Prompt tokens, as many as fit into a step."""
        scheduled: list[ScheduledChunk] = []
        budget = self._step_tokens
        for sequence in self._prefill_candidates(adapter):
            chunk = self._schedule_chunk(sequence, budget)
            if chunk is not None:
                scheduled.append(chunk)
                budget -= chunk.length
            if budget <= 0:
                break
        return scheduled

    def _prefill_candidates(self, adapter: int) -> Iterator[ChoiceSequence]:
        """Running sequences with prompt tokens to compute, and waiting ones, each let in when it is its turn."""
        reserved_slots = reserved_cells = 0  # for older ones whose adapter's turn is yet to come
        is_full = False
        for sequence in self._by_priority():
            if sequence.has_slot:
                if sequence.adapter == adapter and not sequence.is_decoding:
                    yield sequence
            elif is_full or not all(one.request.is_preemptible_by(sequence.request) for one in self._preempted):
                continue  # Letting it in now would push it back again, or keep out who was pushed back.
            elif sequence.adapter != adapter:
                reserved_slots += 1
                reserved_cells += sequence.pending + HEADROOM_STEPS
            elif len(self._not_preempted_for(sequence)) + reserved_slots >= self._parallel:
                is_full = True
            elif self._awaits_prefix(sequence):
                continue
            elif (match := self._preempt_for(sequence, reserved_slots, reserved_cells)) is None:
                is_full = True
            else:
                self._admit(sequence, match)
                yield sequence

    def _by_priority(self) -> list[ChoiceSequence]:
        """Running sequences and then waiting ones; those from the queue, of both, after all others."""
        running, waiting = self.running, self.waiting
        first, second = (
            bisect_left(every, QUEUED_PRIORITY_OFFSET, key=lambda one: one.request.priority)
            for every in (running, waiting)
        )
        return [*running[:first], *waiting[:second], *running[first:], *waiting[second:]]

    def competitors_of(self, request: EngineRequest) -> list[ChoiceSequence]:
        """The sequences, running and waiting, that a job has to share slots with: those that do not yield to it."""
        return [one for one in (*self.running, *self.waiting) if not one.request.is_preemptible_by(request)]

    def add(self, sequence: ChoiceSequence) -> None:
        """Put a sequence into its place among the waiting ones."""
        insort(self.waiting, sequence, key=lambda waiting: waiting.sort_key)
        self._prefill_is_next.setdefault(sequence.adapter, True)

    def remove(self, sequence: ChoiceSequence) -> None:
        """Take out a cancelled sequence, wherever it is, and free its cells."""
        (self.running if sequence in self.running else self.waiting).remove(sequence)
        self._cache.release(sequence)

    def finish(self, sequence: ChoiceSequence) -> None:
        """Take out a finished sequence; its cells stay as cache."""
        self.running.remove(sequence)
        self._cache.retain(sequence, self.running)

    def _schedule_chunk(self, sequence: ChoiceSequence, max_tokens: int) -> ScheduledChunk | None:
        """Up to `most` pending tokens of a running sequence, pushing back the youngest ones to find cells."""
        position, count = sequence.computed, min(sequence.pending, max_tokens, sequence.max_step_tokens)
        if count <= 0 or not sequence.has_slot:
            return None
        while not self._cache.extend(sequence, count):
            youngest = self.running[-1]
            self._preempt(youngest)
            if youngest is sequence:
                return None
        return ScheduledChunk(sequence, position, count)

    def _not_preempted_for(self, candidate: ChoiceSequence) -> list[ChoiceSequence]:
        """The running sequences that are not pushed back for the newcomer. All others are younger."""
        return [one for one in self.running if not one.request.is_preemptible_by(candidate.request)]

    def _awaits_prefix(self, sequence: ChoiceSequence) -> bool:
        """Whether a running sequence is computing enough of what this one begins with."""
        match = self._cache.match(sequence, self.running)
        return match.awaitable_length - match.length >= MIN_AWAITED_PREFIX_TOKENS

    def _preempt_for(self, candidate: ChoiceSequence, reserved_slots: int, reserved_cells: int) -> PrefixMatch | None:
        """What the newcomer begins with, after those that yield to it were pushed back as far as that is needed.

        None: it finds no slot or too few cells. Nobody is pushed back where that would not help.
        """
        while (match := self._admissible_match(candidate, self.running, reserved_slots, reserved_cells)) is None:
            staying = self._not_preempted_for(candidate)
            if len(staying) == len(self.running):
                return None
            if self._admissible_match(candidate, staying, reserved_slots, reserved_cells) is None:
                return None
            self._preempt(self.running[-1])
        return match

    def _admissible_match(
        self, candidate: ChoiceSequence, running: list[ChoiceSequence], reserved_slots: int, reserved_cells: int
    ) -> PrefixMatch | None:
        """What the newcomer would begin with beside these; None: there is no slot, or there are too few cells."""
        if len(running) + reserved_slots >= self._parallel:
            return None
        if not self.running:
            self._cache.sweep_if_short(candidate.pending + HEADROOM_STEPS)
        match = self._cache.match(candidate, running)
        # Cells it may count on, after what the others are about to need.
        free_cells = (
            self._cache.available(running) - sum(one.pending + HEADROOM_STEPS for one in running) - reserved_cells
        )
        return match if candidate.pending - len(match.cells) <= free_cells else None

    def _admit(self, sequence: ChoiceSequence, match: PrefixMatch) -> None:
        self.waiting.remove(sequence)
        self._cache.attach(sequence, match, self.running)
        if sequence.request.cached_tokens is None:
            sequence.request.cached_tokens = min(sequence.computed, len(sequence.request.prompt))
        insort(self.running, sequence, key=lambda running: running.sort_key)

    def _preempt(self, sequence: ChoiceSequence) -> None:
        self.running.remove(sequence)
        self._cache.retain(sequence, self.running)
        self._preempted.append(sequence)
        self.add(sequence)
