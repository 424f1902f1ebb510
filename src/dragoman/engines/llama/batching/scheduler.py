"""Which sequences compute how many tokens in the next step. `Scheduler.schedule` is the whole decision."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dragoman.core.request import QUEUED_PRIORITY_OFFSET
from dragoman.engines.llama.batching.cache import PrefixCache, PrefixMatch
from dragoman.engines.llama.batching.sequence import ChoiceSequence, EngineRequest, RequestKey

MIN_AWAITED_PREFIX_TOKENS = 32
"""A sequence waits for a prefix that another one is computing if that saves at least this number of tokens."""

MAX_UNTILED_TOKENS = 63
"""With 64 tokens and more, ggml computes attention in tiles of queries."""

HEADROOM_STEPS = 16
"""Decode steps for which cells must remain free after admitting another sequence."""


def max_batch_tokens(max_sequences: int, max_batched_tokens: int) -> int:
    """Return the most tokens of one step: all sequences decode, or prefill computes `max_batched_tokens`."""
    return max(max_batched_tokens, max_sequences)


def count_waiting_requests(sequences: Iterable[ChoiceSequence]) -> int:
    """Count the requests of which no choice has a slot."""
    slots: dict[RequestKey, bool] = {}
    for sequence in sequences:
        slots[sequence.request.key] = slots.get(sequence.request.key, False) or sequence.has_slot
    return sum(not has_slot for has_slot in slots.values())


class ScheduledChunk(NamedTuple):
    """`length` tokens of `sequence` to compute, from `position` on. Their cells are allocated already."""

    sequence: ChoiceSequence
    position: int
    length: int

    @property
    def reaches_end(self) -> bool:
        """Whether a token can be sampled after the chunk."""
        return self.position + self.length == self.sequence.length


class Scheduler:
    """Continuous batching: prefill steps and decode steps alternate, and in each the oldest sequence goes first.

    They do not share a step: with 64 tokens and more, ggml computes attention in tiles of queries. Each tile passes
    over all cells that any of its queries may see, and decoding queries of many sequences see all of them.
    benchmarks/README.md has the measurement.

    An adapter changes the model for a whole step. So adapters take turns too, each with its own alternation.

    Queued sequences (core.request.QUEUED_PRIORITY_OFFSET) are preempted for all others: no client waits for them.
    """

    def __init__(self, cache: PrefixCache, max_sequences: int, max_batched_tokens: int) -> None:
        """`max_sequences`: the number of slots. `max_batched_tokens`: the most tokens of a prefill step."""
        self._cache = cache
        self._max_sequences = max_sequences
        self._max_batched_tokens = max_batched_tokens
        self._prefill_is_next: dict[int, bool] = {}
        """Adapter with work → whether its next step is prefill. The adapter that waits longest comes first."""
        self._preempted: list[ChoiceSequence] = []
        """Sequences preempted while the current step is scheduled."""
        self.running: list[ChoiceSequence] = []
        self.waiting: list[ChoiceSequence] = []

    def schedule(self) -> list[ScheduledChunk]:
        """Choose the chunks of the next step, all with one adapter. Empty if there is no work or all were preempted."""
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
        """Schedule the pending tokens of every sequence whose prompt is computed.

        That is one token, or a few more where a grammar forces them. The youngest are preempted if cells run out.
        """
        scheduled: list[ScheduledChunk] = []
        decoding = [one for one in self.running if one.is_decoding and one.adapter == adapter]
        spare = max(0, min(MAX_UNTILED_TOKENS, self._max_batched_tokens) - len(decoding))
        for sequence in decoding:
            chunk = self._schedule_chunk(sequence, 1 + spare)
            if chunk is not None:
                scheduled.append(chunk)
                spare -= chunk.length - 1
        return scheduled

    def _prefill(self, adapter: int) -> list[ScheduledChunk]:
        """Schedule prompt tokens, as many as fit into a step."""
        scheduled: list[ScheduledChunk] = []
        budget = self._max_batched_tokens
        for sequence in self._prefill_candidates(adapter):
            chunk = self._schedule_chunk(sequence, budget)
            if chunk is not None:
                scheduled.append(chunk)
                budget -= chunk.length
            if budget <= 0:
                break
        return scheduled

    def _prefill_candidates(self, adapter: int) -> Iterator[ChoiceSequence]:
        """Yield running sequences with prompt tokens to compute, and waiting ones, which are admitted in their turn."""
        reserved_slots = reserved_cells = 0  # for older sequences of adapters whose turn comes later
        is_full = False
        for sequence in self._by_priority():
            if sequence.has_slot:
                if sequence.adapter == adapter and not sequence.is_decoding:
                    yield sequence
            elif is_full or not all(one.request.is_preemptible_by(sequence.request) for one in self._preempted):
                continue  # Admitting it would preempt it again, or take the place of a sequence that was preempted.
            elif sequence.adapter != adapter:
                reserved_slots += 1
                reserved_cells += sequence.pending + HEADROOM_STEPS
            elif len(self._not_preempted_for(sequence)) + reserved_slots >= self._max_sequences:
                is_full = True
            elif self._awaits_prefix(sequence):
                continue
            elif (match := self._preempt_for(sequence, reserved_slots, reserved_cells)) is None:
                is_full = True
            else:
                self._admit(sequence, match)
                yield sequence

    def _by_priority(self) -> list[ChoiceSequence]:
        """List the running sequences, then the waiting ones; the queued ones of both come after all others."""
        running, waiting = self.running, self.waiting
        first, second = (
            bisect_left(every, QUEUED_PRIORITY_OFFSET, key=lambda one: one.request.priority)
            for every in (running, waiting)
        )
        return [*running[:first], *waiting[:second], *running[first:], *waiting[second:]]

    def competitors_of(self, request: EngineRequest) -> list[ChoiceSequence]:
        """List the sequences, running and waiting, that are not preempted for the request."""
        return [one for one in (*self.running, *self.waiting) if not one.request.is_preemptible_by(request)]

    def add(self, sequence: ChoiceSequence) -> None:
        """Insert a sequence into its place among the waiting ones."""
        insort(self.waiting, sequence, key=lambda waiting: waiting.sort_key)
        self._prefill_is_next.setdefault(sequence.adapter, True)

    def remove(self, sequence: ChoiceSequence) -> None:
        """Remove a cancelled sequence, running or waiting, and free its cells."""
        (self.running if sequence in self.running else self.waiting).remove(sequence)
        self._cache.release(sequence)

    def finish(self, sequence: ChoiceSequence) -> None:
        """Remove a finished sequence. Its cells stay in the cache."""
        self.running.remove(sequence)
        self._cache.retain(sequence, self.running)

    def _schedule_chunk(self, sequence: ChoiceSequence, max_tokens: int) -> ScheduledChunk | None:
        """Schedule up to `max_tokens` pending tokens of a sequence. Preempts the youngest ones if cells run out."""
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
        """List the running sequences that are not preempted for the candidate. All others are younger."""
        return [one for one in self.running if not one.request.is_preemptible_by(candidate.request)]

    def _awaits_prefix(self, sequence: ChoiceSequence) -> bool:
        """Whether it pays to wait for a prefix that a running sequence is computing."""
        match = self._cache.match(sequence, self.running)
        return match.awaitable_length - match.length >= MIN_AWAITED_PREFIX_TOKENS

    def _preempt_for(self, candidate: ChoiceSequence, reserved_slots: int, reserved_cells: int) -> PrefixMatch | None:
        """Preempt as few sequences as the candidate needs, and return its match.

        None if there is no slot or there are too few cells. Nothing is preempted if that would not help.
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
        """Return the candidate's match beside these sequences. None if there is no slot, or there are too few cells."""
        if len(running) + reserved_slots >= self._max_sequences:
            return None
        if not self.running:
            self._cache.sweep_if_short(candidate.pending + HEADROOM_STEPS)
        match = self._cache.match(candidate, running)
        # The cells that remain after what the others are about to need.
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
