"""Which sequences compute how many tokens in the next step. `Scheduler.schedule` is the whole decision."""

import heapq
import itertools
from bisect import bisect_left, insort
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Set

from dragoman.core.request import QUEUED_PRIORITY_OFFSET
from dragoman.engines.llama.batching.cache import PrefixCache, PrefixMatch, ScheduledChunk
from dragoman.engines.llama.batching.sequence import MAX_PROMPT_LOGPROBS, ChoiceSequence, EngineRequest, next_victim
from dragoman.engines.llama.batching.speculation import DraftPlanner

MIN_AWAITED_PREFIX_TOKENS = 32
"""A sequence waits for a prefix that another one is computing if that saves at least this number of tokens."""

MAX_UNTILED_TOKENS = 63
"""With 64 tokens and more, ggml computes attention in tiles of queries."""

HEADROOM_STEPS = 16
"""Decode steps for which cells must remain free after admitting another sequence."""

_MAX_FINISH_TAGS = 256
"""Above this number, owners that would begin at the virtual time anyway are forgotten."""


class PrefillTurns:
    """Start-time fair queueing of prompt tokens among owners of equal weight (Goyal, Vin and Cheng, SIGCOMM 1996).

    The owner with the lowest start tag is served next. Its next start tag is higher by the tokens that it was served.
    The virtual time is the start tag of the owner that was served first in the last step: whoever comes, or comes
    back, begins there.
    """

    def __init__(self) -> None:
        self._virtual_time = 0
        self._finish_tags: dict[str, int] = {}
        self._is_served_first = True

    def start_tag(self, owner: str) -> int:
        """Return the owner's place in the order of service."""
        return max(self._virtual_time, self._finish_tags.get(owner, 0))

    def serve(self, owner: str, tokens: int) -> None:
        """Note that the owner was served this number of tokens."""
        start_tag = self.start_tag(owner)
        if self._is_served_first:
            self._virtual_time, self._is_served_first = start_tag, False
        self._finish_tags[owner] = start_tag + tokens
        if len(self._finish_tags) > _MAX_FINISH_TAGS:
            self._finish_tags = {one: tag for one, tag in self._finish_tags.items() if tag > self._virtual_time}

    def order(self, sequences: Iterable[ChoiceSequence], blocked: Set[str]) -> Iterator[ChoiceSequence]:
        """Begin a step, and yield the sequences, those of one owner in their order, except those of `blocked` owners.

        Between two of them, `serve` may be called and owners may be blocked.
        """
        self._is_served_first = True
        by_owner: defaultdict[str, deque[ChoiceSequence]] = defaultdict(deque)
        for sequence in sequences:
            by_owner[sequence.request.owner].append(sequence)
        heap = [(self.start_tag(owner), of_owner[0].arrival, owner) for owner, of_owner in by_owner.items()]
        heapq.heapify(heap)
        while heap:
            of_owner = by_owner[owner := heap[0][2]]
            yield of_owner.popleft()
            if of_owner and owner not in blocked:
                heapq.heapreplace(heap, (self.start_tag(owner), of_owner[0].arrival, owner))
            else:
                heapq.heappop(heap)


class Scheduler:
    """Continuous batching: prefill steps and decode steps alternate.

    They do not share a step: with 64 tokens and more, ggml computes attention in tiles of queries. Each tile passes
    over all cells that any of its queries may see, and decoding queries of many sequences see all of them.
    benchmarks/README.md has the measurement.

    Owners take turns to prefill, by the tokens that they were served. Of one owner the oldest sequence goes first.
    An adapter changes the model for a whole step: owners take turns with theirs, and each has its own alternation.

    Queued sequences (core.request.QUEUED_PRIORITY_OFFSET) are preempted for all others: no client waits for them.
    """

    def __init__(
        self, cache: PrefixCache, max_sequences: int, max_batched_tokens: int, max_draft_tokens: int = 0
    ) -> None:
        """`max_sequences`: the number of slots. `max_batched_tokens`: the most tokens of a prefill step.

        `max_draft_tokens`: the most tokens that are drafted for a sequence in a decode step.
        """
        self._cache = cache
        self.planner = DraftPlanner(max_draft_tokens)
        self._max_sequences = max_sequences
        self._max_batched_tokens = max_batched_tokens
        self._prefill_is_next: dict[int, bool] = {}
        """Adapter with work → whether its next step is prefill. The adapter that waits longest comes first."""
        self._turn_numbers = itertools.count(1)
        self._last_turns: dict[str, int] = {}
        """Of the owners that use several adapters between them: the number of the step that was for them last."""
        self._interactive_turns, self._queued_turns = PrefillTurns(), PrefillTurns()
        self._preempted: list[ChoiceSequence] = []
        """Sequences preempted while the current step is scheduled."""
        self._long_chunk: ScheduledChunk | None = None
        """The chunk of the current step that belongs to a prompt which takes several steps."""
        self._slots: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
        """How many running sequences each owner has: those that are not queued, and the queued ones."""
        self._is_decode_step = False
        self._waiting_owners: Counter[str] = Counter()
        """How many waiting sequences each owner has, those that are queued left out."""
        self.running: list[ChoiceSequence] = []
        self.waiting: list[ChoiceSequence] = []

    def schedule(self) -> list[ScheduledChunk]:
        """Choose the chunks of the next step, all with one adapter. Empty if there is no work or all were preempted."""
        self._preempted.clear()
        for adapter, owner in self._adapters_in_turn():
            prefill_is_next = self._prefill_is_next[adapter]
            steps = (self._prefill, self._decode) if prefill_is_next else (self._decode, self._prefill)
            for step in steps:
                if scheduled := step(adapter):
                    del self._prefill_is_next[adapter]
                    self._prefill_is_next[adapter] = step == self._decode
                    self._last_turns[owner] = next(self._turn_numbers)
                    self._is_decode_step = step == self._decode
                    return scheduled
            if not any(sequence.adapter == adapter for sequence in (*self.running, *self.waiting)):
                del self._prefill_is_next[adapter]
        return []

    def note_duration(self, tokens: int, seconds: float) -> None:
        """Take what the scheduled step took. Decode steps show what another token costs one."""
        if self._is_decode_step:
            self.planner.observe(tokens, seconds)

    def _adapters_in_turn(self) -> list[tuple[int, str]]:
        """List the adapters with work, each with the owner whose turn it is: the one whose last turn is longest ago.

        So an owner gets no more steps by using more adapters. Of one owner the adapter that waits longest comes first.
        """
        if len(self._prefill_is_next) == 1:
            return [(adapter, "") for adapter in self._prefill_is_next]
        owners: dict[int, dict[str, None]] = {adapter: {} for adapter in self._prefill_is_next}
        for sequence in (*self.running, *self.waiting):
            owners[sequence.adapter][sequence.owner] = None
        self._last_turns = {
            owner: self._last_turns.get(owner, 0) for of_adapter in owners.values() for owner in of_adapter
        }
        in_turn = [
            (adapter, min(of_adapter, key=self._last_turns.__getitem__, default=""))
            for adapter, of_adapter in owners.items()
        ]
        return sorted(in_turn, key=lambda turn: self._last_turns.get(turn[1], 0))

    def _decode(self, adapter: int) -> list[ScheduledChunk]:
        """Schedule the pending tokens of every sequence whose prompt is computed.

        That is one token, or a few more where a grammar forces them. The youngest are preempted if cells run out.
        """
        scheduled: list[ScheduledChunk] = []
        decoding = [one for one in self.running if one.is_decoding and one.request.adapter == adapter]
        spare = max(0, min(MAX_UNTILED_TOKENS, self._max_batched_tokens) - len(decoding))
        for sequence in decoding:
            chunk = self._schedule_chunk(sequence, 1 + spare)
            if chunk is not None:
                scheduled.append(chunk)
                spare -= chunk.length - 1
        return self._with_drafts(scheduled, min(spare, self._cache.draft_cells))

    def _with_drafts(self, scheduled: list[ScheduledChunk], room: int) -> list[ScheduledChunk]:
        """Add up to `room` drafted tokens, where computing them in the same step is expected to pay."""
        complete = [chunk.sequence for chunk in scheduled if chunk.reaches_end] if room > 0 else []
        drafts = self.planner.draft(complete, sum(chunk.length for chunk in scheduled), room)
        for sequence, draft in drafts.items():
            self._cache.extend(sequence, len(draft))
        return [chunk._replace(draft=drafts.get(chunk.sequence, ())) for chunk in scheduled] if drafts else scheduled

    def _prefill(self, adapter: int) -> list[ScheduledChunk]:
        """Schedule prompt tokens, as many as fit into a step. A long prompt leaves half of it to shorter ones."""
        scheduled: list[ScheduledChunk] = []
        self._long_chunk = None
        if all(one.is_decoding for one in self.running) and not self.may_admit():
            return scheduled
        budget, reports = self._max_batched_tokens, MAX_PROMPT_LOGPROBS
        for sequence in self._prefill_candidates(adapter):
            is_long, is_reported = self._is_long(sequence, sequence.pending), sequence.needs_prompt_logprobs
            room = (budget + 1) // 2 if is_long else budget
            chunk = self._schedule_chunk(sequence, min(room, reports) if is_reported else room)
            if chunk is not None:
                scheduled.append(chunk)
                budget -= chunk.length
                reports -= chunk.length if is_reported else 0
                self._turns(sequence).serve(sequence.owner, chunk.length)
                self._long_chunk = chunk if is_long else self._long_chunk
            if budget <= 0:
                return scheduled
        if self._long_chunk is not None:
            scheduled[scheduled.index(self._long_chunk)] = self._lengthen(self._long_chunk, budget)
        return scheduled

    def _prefill_candidates(self, adapter: int) -> Iterator[ChoiceSequence]:
        """Yield running sequences with prompt tokens to compute, and waiting ones, which are admitted in their turn."""
        reserved_slots = reserved_cells = 0  # for older sequences of adapters whose turn comes later
        blocked: set[str] = set()  # owners of which no further sequence is admitted
        is_full = False
        for sequence in self._in_turn(blocked):
            if sequence.has_slot:
                is_candidate = sequence.adapter == adapter and not sequence.is_decoding
                if is_candidate and not self._awaits_long_prompt(sequence, sequence.pending):
                    yield sequence
            elif is_full or not all(one.request.is_preemptible_by(sequence.request) for one in self._preempted):
                # Admitting it would preempt it again, or take the place of a sequence that was preempted.
                blocked.add(sequence.owner)
            elif sequence.adapter != adapter:
                reserved_slots += 1
                reserved_cells += sequence.pending + HEADROOM_STEPS
            elif (has_slot := self._may_have_slot(sequence, reserved_slots)) and self._awaits_another(sequence):
                continue
            elif has_slot and (match := self._preempt_for(sequence, reserved_slots, reserved_cells)) is not None:
                self._admit(sequence, match)
                yield sequence
            else:
                blocked.add(sequence.owner)
                # What becomes free is for an owner that has nothing. The others wait for what they have themselves.
                is_full = not self._slots[sequence.is_queued][sequence.owner]

    def _in_turn(self, blocked: set[str]) -> Iterator[ChoiceSequence]:
        """Yield the sequences by the turns of their owners, running ones before waiting ones, queued ones last."""
        running, waiting = self.running, self.waiting
        first, second = (
            bisect_left(every, QUEUED_PRIORITY_OFFSET, key=lambda one: one.request.priority)
            for every in (running, waiting)
        )
        interactive, queued = [*running[:first], *waiting[:second]], [*running[first:], *waiting[second:]]
        yield from self._interactive_turns.order(interactive, blocked)
        blocked.clear()
        yield from self._queued_turns.order(queued, blocked)

    def competitors_of(self, request: EngineRequest) -> list[ChoiceSequence]:
        """List the sequences, running and waiting, that are not preempted for the request."""
        return [one for one in (*self.running, *self.waiting) if not one.request.is_preemptible_by(request)]

    def add(self, sequence: ChoiceSequence) -> None:
        """Insert a sequence into its place among the waiting ones."""
        insort(self.waiting, sequence, key=lambda waiting: waiting.sort_key)
        if not sequence.is_queued:
            self._waiting_owners[sequence.owner] += 1
        self._prefill_is_next.setdefault(sequence.adapter, True)

    def remove(self, sequence: ChoiceSequence) -> None:
        """Remove a cancelled sequence, running or waiting, and free its cells."""
        if sequence.has_slot:
            self._remove_running(sequence)
        else:
            self._remove_waiting(sequence)
        self._cache.release(sequence)

    def finish(self, sequence: ChoiceSequence) -> None:
        """Remove a finished sequence. Its cells stay in the cache."""
        self._remove_running(sequence)
        self._cache.retain(sequence, self.running)

    def _schedule_chunk(self, sequence: ChoiceSequence, max_tokens: int) -> ScheduledChunk | None:
        """Schedule up to `max_tokens` pending tokens of a sequence. Preempts others, or it, if cells run out."""
        position, count = sequence.computed, min(sequence.pending, max_tokens)
        if count <= 0 or not sequence.has_slot:
            return None
        count = sequence.computable_together(position, count) if count > 1 or sequence.request.images else count
        while not self._cache.extend(sequence, count):
            victim = next_victim(self.running)
            assert victim is not None, "the sequence itself is not scheduled yet"
            self._preempt(victim)
            if victim is sequence:
                return None
        return ScheduledChunk(sequence, position, count)

    def _may_have_slot(self, candidate: ChoiceSequence, reserved_slots: int) -> bool:
        """Whether a slot is free, or may be taken from another sequence."""
        if len(self.running) + reserved_slots < self._max_sequences:
            return True
        if candidate.is_queued:
            return False
        slots = self._slots[False]
        return bool(self._slots[True]) or max(slots.values(), default=0) >= 2 * (slots[candidate.owner] + 1)

    def may_admit(self) -> bool:
        """Whether any waiting sequence may get a slot. It takes no longer however many wait."""
        if len(self.running) < self._max_sequences or self._slots[True]:
            return bool(self.waiting)
        slots, waiting_owners = self._slots[False], self._waiting_owners
        with_slots = [count for owner, count in slots.items() if owner in waiting_owners]
        fewest = min(with_slots, default=0) if len(with_slots) == len(waiting_owners) else 0
        return bool(waiting_owners) and max(slots.values(), default=0) >= 2 * (fewest + 1)

    def _victims_for(self, candidate: ChoiceSequence) -> list[ChoiceSequence]:
        """List the running sequences that may be preempted for the candidate, in the order of their preemption.

        Those are the queued ones for a candidate that is not, and the youngest of an owner that has at least twice as
        many as the candidate's owner would have. A closer rule would preempt at nearly every end of an answer.
        """
        victims: list[ChoiceSequence] = []
        staying = self.running.copy()
        while not candidate.is_queued and (victim := next_victim(staying)) is not None:
            slots = Counter(one.owner for one in staying if not one.is_queued)
            if not victim.is_queued and slots[victim.owner] < 2 * (slots[candidate.owner] + 1):
                break
            victims.append(victim)
            staying.remove(victim)
        return victims

    def _is_long(self, sequence: ChoiceSequence, pending: int) -> bool:
        """Whether this number of tokens takes more than a step."""
        most = MAX_PROMPT_LOGPROBS if sequence.needs_prompt_logprobs else pending
        return pending > self._max_batched_tokens <= most

    def _awaits_long_prompt(self, sequence: ChoiceSequence, pending: int) -> bool:
        """Whether a long prompt has the rest of the step, which it leaves to shorter ones of its kind only.

        A second long one would only delay the first.
        """
        if self._long_chunk is None:
            return False
        return self._is_long(sequence, pending) or sequence.is_queued != self._long_chunk.sequence.is_queued

    def _awaits_another(self, sequence: ChoiceSequence) -> bool:
        """Whether it pays to wait for a prefix that a running sequence is computing, or for another long prompt."""
        match = self._cache.match(sequence, self.running)
        if match.awaitable_length - match.length >= MIN_AWAITED_PREFIX_TOKENS:
            return True
        return self._awaits_long_prompt(sequence, sequence.pending - match.length)

    def _lengthen(self, chunk: ScheduledChunk, tokens: int) -> ScheduledChunk:
        """Return the chunk of a long prompt with this number of tokens more, if cells are free for them."""
        tokens = chunk.sequence.computable_together(chunk.position, chunk.length + tokens) - chunk.length
        if tokens <= 0 or not self._cache.extend(chunk.sequence, tokens):
            return chunk
        self._turns(chunk.sequence).serve(chunk.sequence.owner, tokens)
        return chunk._replace(length=chunk.length + tokens)

    def _turns(self, sequence: ChoiceSequence) -> PrefillTurns:
        return self._queued_turns if sequence.is_queued else self._interactive_turns

    def _preempt_for(self, candidate: ChoiceSequence, reserved_slots: int, reserved_cells: int) -> PrefixMatch | None:
        """Preempt as few sequences as the candidate needs, and return its match.

        None if there is no slot or there are too few cells. Nothing is preempted if that would not help.
        """
        while (match := self._admissible_match(candidate, self.running, reserved_slots, reserved_cells)) is None:
            victims = self._victims_for(candidate)
            staying = [one for one in self.running if one not in victims]
            if not victims or self._admissible_match(candidate, staying, reserved_slots, reserved_cells) is None:
                return None
            self._preempt(victims[0])
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
        self._remove_waiting(sequence)
        self._cache.attach(sequence, match, self.running)
        if sequence.request.cached_tokens is None:
            sequence.request.cached_tokens = min(sequence.computed, len(sequence.request.prompt))
        insort(self.running, sequence, key=lambda running: running.sort_key)
        self._slots[sequence.is_queued][sequence.owner] += 1

    def _remove_waiting(self, sequence: ChoiceSequence) -> None:
        self.waiting.remove(sequence)
        if not sequence.is_queued:
            self._waiting_owners -= Counter((sequence.owner,))

    def _remove_running(self, sequence: ChoiceSequence) -> None:
        self.running.remove(sequence)
        self._slots[sequence.is_queued] -= Counter((sequence.owner,))

    def _preempt(self, sequence: ChoiceSequence) -> None:
        self._remove_running(sequence)
        if sequence.computed:
            self._cache.retain(sequence, self.running)
        else:
            self._cache.release(sequence)
        self._preempted.append(sequence)
        self.add(sequence)
