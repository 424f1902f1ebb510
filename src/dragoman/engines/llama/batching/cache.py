"""The prefix cache over the KV cells: sequences share common prefixes, and finished ones stay for later requests."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from dragoman.engines.llama.arrays import NO_CELLS, Cells
from dragoman.engines.llama.batching.host_cache import (
    HostKVCache,
    SegmentSpan,
    common_prefix_length,
    shared_prefix_length,
)
from dragoman.engines.llama.batching.partitions import PartitionLoad, choose_partition
from dragoman.engines.llama.batching.sequence import ChoiceSequence
from dragoman.engines.llama.native.backend import Backend


class ScheduledChunk(NamedTuple):
    """`length` tokens of `sequence` to compute, from `position` on. Their cells are allocated already."""

    sequence: ChoiceSequence
    position: int
    length: int
    draft: Sequence[int] = ()
    """Tokens that may follow them, computed in the same step. Their cells are allocated, too."""

    @property
    def reaches_end(self) -> bool:
        """Whether a token can be sampled after the chunk."""
        return self.position + self.length == self.sequence.length


class CellAllocator:
    """Reference counts of `total` KV cells: how many sequences refer to each, and how many are free.

    llama.cpp holds the cells. The allocator mirrors its counting, so that the scheduler knows before a decode whether
    there is room, and a test can prove that nothing leaks. Its cell numbers are not those of llama.cpp.
    """

    def __init__(self, total: int, *, reuses: bool = True) -> None:
        """`reuses`: a cell without references is free immediately. Otherwise it is free only after `sweep`."""
        self.total = total
        self._reuses_cells = reuses
        self._references = np.zeros(total, dtype=np.int32)
        self._free = np.arange(total - 1, -1, -1, dtype=np.int32)
        self.free = total
        """Number of cells that can be allocated."""
        self.spent = 0
        """Number of cells without references that wait for `sweep`."""

    @property
    def used(self) -> int:
        """Number of cells that at least one sequence refers to."""
        return self.total - self.free - self.spent

    def allocate(self, count: int) -> Cells:
        """Allocate `count` cells, each with one reference. The caller has checked that enough cells are free."""
        assert count <= self.free, "the scheduler has counted the free cells before it allocates"
        self.free -= count
        allocated = self._free[self.free : self.free + count].copy()
        self._references[allocated[0] if count == 1 else allocated] = 1  # A single one takes a third of the time.
        return allocated

    def share(self, cells: Cells) -> None:
        """Add a reference to each cell."""
        self._references[cells] += 1

    def release(self, cells: Cells) -> None:
        """Remove a reference from each cell. Cells without references become free or spent."""
        self._references[cells] -= 1
        freed = cells[self._references[cells] == 0]
        if not self._reuses_cells:
            self.spent += len(freed)
            return
        self._free[self.free : self.free + len(freed)] = freed
        self.free += len(freed)

    def sweep(self) -> None:
        """Make all spent cells free. The caller has checked that no cell is used."""
        assert not self.used, "spent cells are swept only while no cell is used"
        self._free = np.arange(self.total - 1, -1, -1, dtype=np.int32)
        self.free, self.spent = self.total, 0

    def count_exclusive(self, cells: Cells) -> int:
        """Count the cells that would become free if all of them were released."""
        return int(np.count_nonzero(self._references[cells] == 1))


class CellMatch(NamedTuple):
    """The longest prefix of a sequence that one other sequence has."""

    source: int | None
    """The sequence id to share from. None if nothing matches."""
    cells: Cells
    """The cells to share, one for each token."""


NO_MATCH = CellMatch(None, NO_CELLS)


class PrefixMatch(NamedTuple):
    """The longest prefix of a sequence that the cache holds or will hold."""

    longest: CellMatch
    by_partition: Sequence[CellMatch]
    """The longest match in each partition."""
    host_spans: list[SegmentSpan]
    """What can be restored after the shared cells."""
    awaitable_length: int
    """Tokens that could be shared once every running sequence that is not preemptible has computed its known tokens."""

    @property
    def length(self) -> int:
        """Number of tokens that need not be computed."""
        return self.host_spans[-1].end if self.host_spans else len(self.cells)

    @property
    def cells(self) -> Cells:
        """The cells that are shared, or copied to another partition, where they take no more of `cells`."""
        return self.longest.cells


class CachedSequence:
    """A finished sequence that still has its cells."""

    def __init__(self, sequence: ChoiceSequence, sequence_id: int, last_used: int) -> None:
        self.scope = sequence.scope
        self.position_of = sequence.request.position_of
        self.sequence_id = sequence_id
        self.tokens = sequence.tokens[: sequence.computed].copy()
        self.cells = sequence.cells
        self.last_used = last_used
        self.is_checkpoint = False
        """Whether it is the beginning of a sequence that could not be continued from there."""
        self.is_offloaded = False
        """Whether its cells were copied to host memory ahead of their eviction. That copy may be gone since."""


class PrefixCache:
    """Gives sequence ids and cells to running sequences and takes them back.

    Sequences share what their scopes allow: prefixes of one adapter and one owner, and public ones of all owners.
    """

    def __init__(self, backend: Backend, host_cache: HostKVCache) -> None:
        self._backend = backend
        self._finished: list[CachedSequence] = []
        self._free_ids = list(range(backend.sequence_ids))
        self._partitions = [0] * backend.sequence_ids
        """Sequence id → the partition of its cells."""
        self._clock = 0
        self.allocator = CellAllocator(backend.cells, reuses=backend.reuses_cells)
        self.host_cache = host_cache

    def match(self, sequence: ChoiceSequence, running: Iterable[ChoiceSequence]) -> PrefixMatch:
        """Find the longest match for the sequence, except its last token, whose logits must be computed."""
        match = self._match_cells(sequence, running)
        wanted, covered = sequence.shareable_tokens[:-1], len(match.cells)
        host_spans = self.host_cache.match(sequence.scope, wanted, covered) if self.host_cache.tokens else []
        return match._replace(host_spans=host_spans)

    def attach(self, sequence: ChoiceSequence, match: PrefixMatch, running: Iterable[ChoiceSequence]) -> None:
        """Give the sequence an id and the shared cells of the match, and restore the offloaded ones."""
        running = list(running)
        partition = self._choose_partition(sequence, match, running)
        for entry in self._finished:
            if entry.sequence_id in (match.longest.source, match.by_partition[partition].source):
                entry.last_used = self._tick()
        sequence.sequence_id = self._allocate_id()
        partition = self._place(sequence.sequence_id, partition)
        self._append_shared(sequence, match.by_partition[partition])
        self._append_shared(sequence, match.longest)
        self._trim([*running, sequence])
        for span in match.host_spans:
            if not self._restore(sequence, sequence.sequence_id, span):
                break
        sequence.computed = len(sequence.cells)

    def _choose_partition(self, sequence: ChoiceSequence, match: PrefixMatch, running: Sequence[ChoiceSequence]) -> int:
        if not running or self._backend.partitions == 1:
            return 0 if match.longest.source is None else self._partitions[match.longest.source]
        loads = []
        for number, shared in enumerate(match.by_partition):
            members = [one for one in running if self._partitions[one.running_id] == number]
            cells = self._count_held(members) + sum(one.pending for one in members)
            loads.append(PartitionLoad(len(members), cells, len(shared.cells)))
        return choose_partition(loads, sequence.length, self._backend.step_cells)

    def _place(self, sequence_id: int, partition: int) -> int:
        """Place an empty sequence, and return its partition."""
        self._partitions[sequence_id] = self._backend.place(sequence_id, partition)
        return self._partitions[sequence_id]

    def _append_shared(self, sequence: ChoiceSequence, match: CellMatch) -> None:
        """Append the cells of the match that the sequence lacks."""
        start, end = len(sequence.cells), len(match.cells)
        if match.source is not None and start < end:
            position_of = sequence.request.position_of
            self._backend.share(match.source, sequence.running_id, position_of(start), position_of(end))
            self.allocator.share(match.cells[start:])
            sequence.cells = np.concatenate((sequence.cells, match.cells[start:]))

    def sweep_if_short(self, cells: int) -> None:
        """Free all cells if fewer than `cells` are free. Called only while nothing runs."""
        if self.allocator.spent and self.allocator.free < cells:
            while self._finished:
                self._evict()
            self._backend.sweep()
            self.allocator.sweep()

    def offload_one(self) -> bool:
        """Copy one finished sequence to host memory before its cells are needed. False if all have been copied."""
        for entry in self._finished:
            if not entry.is_offloaded:
                entry.is_offloaded = True
                self._offload(entry, 0)
                return True
        return False

    def extend(self, sequence: ChoiceSequence, count: int) -> bool:
        """Give the sequence `count` more cells, evicting finished sequences if necessary. False if that fails."""
        if self.allocator.free < count and not self._evict_until_free(count):
            return False
        sequence.add_cells(self.allocator.allocate(count))
        return True

    @property
    def draft_cells(self) -> int:
        """Number of cells that drafted tokens may take. The spent ones of rejected tokens may take half of all."""
        allocator = self.allocator
        return allocator.free if self._backend.reuses_cells else max(0, allocator.free - allocator.total // 2)

    def drop_rejected(self, sequence: ChoiceSequence) -> None:
        """Take the cells after its computed tokens from a running sequence: those of rejected drafts."""
        if sequence.is_scheduled:
            self._backend.truncate(sequence.running_id, sequence.request.position_of(sequence.computed))
            self.allocator.release(sequence.cells[sequence.computed :])
            sequence.cells = sequence.cells[: sequence.computed]

    def available(self, running: Iterable[ChoiceSequence]) -> int:
        """Count the cells that running sequences may get: free ones and those of finished sequences."""
        count = self._count_held(running)
        # While nothing runs, spent cells can be swept.
        return self.allocator.total - count - (self.allocator.spent if count else 0)

    def _count_held(self, sequences: Iterable[ChoiceSequence]) -> int:
        """Count the cells that at least one of the sequences has."""
        held = np.zeros(self.allocator.total, dtype=np.bool_)
        for sequence in sequences:
            held[sequence.cells] = True
        return int(np.count_nonzero(held))

    def release(self, sequence: ChoiceSequence) -> None:
        """Take the id and the cells from a cancelled sequence."""
        if sequence.sequence_id is not None:
            self._free(sequence.sequence_id, sequence.cells)
            sequence.sequence_id, sequence.cells, sequence.computed = None, NO_CELLS, 0

    def retain(self, sequence: ChoiceSequence, running: Iterable[ChoiceSequence]) -> None:
        """Move the id and the cells of a finished or preempted sequence into the cache."""
        assert sequence.sequence_id is not None, "only a sequence that ran has cells to keep"
        self.drop_rejected(sequence)
        tokens = sequence.tokens[: sequence.computed]
        for entry in list(self._finished):
            is_of_scope = sequence.scope.max_shared_tokens(entry.scope) is None
            is_replaceable = is_of_scope and not entry.is_checkpoint
            if is_replaceable and common_prefix_length(entry.tokens, tokens) == len(entry.tokens):
                self._drop(entry)
        self._finished.append(CachedSequence(sequence, sequence.sequence_id, self._tick()))
        sequence.sequence_id, sequence.cells, sequence.computed = None, NO_CELLS, 0
        self._trim(running)

    @property
    def free_sequence_ids(self) -> int:
        """Number of ids that no sequence has."""
        return len(self._free_ids)

    def forget_adapter(self, adapter: int) -> None:
        """Drop everything that was computed with an adapter that no sequence will use again."""
        for entry in [entry for entry in self._finished if entry.scope.adapter == adapter]:
            self._drop(entry)
        self.host_cache.forget_adapter(adapter)

    @property
    def needs_checkpoints(self) -> bool:
        """Whether a sequence can be continued from its end only, so that choices share what is kept in between."""
        return False

    def keep_checkpoint(self, sequence: ChoiceSequence) -> None:
        """Keep what a running sequence has computed so far, which goes on."""
        raise NotImplementedError

    def clear(self) -> None:
        """Drop all finished sequences that still have cells."""
        while self._finished:
            self._drop(self._finished[0])

    def _match_cells(self, sequence: ChoiceSequence, running: Iterable[ChoiceSequence]) -> PrefixMatch:
        """Find the longest match in the KV cells."""
        wanted, scope = sequence.shareable_tokens[:-1], sequence.scope
        matches, awaitable_length = [NO_MATCH] * self._backend.partitions, 0
        for entry in self._finished:
            length = shared_prefix_length(scope, wanted, entry.scope, entry.tokens)
            self._offer(matches, entry.sequence_id, entry.cells, length)
        for other in running:
            common = shared_prefix_length(scope, wanted, other.scope, other.tokens)
            length = min(common, other.computed)
            if length < common and not other.request.is_preemptible_by(sequence.request):
                awaitable_length = max(awaitable_length, common)
            self._offer(matches, other.running_id, other.cells, length)
        longest = max(matches, key=lambda match: len(match.cells))
        return PrefixMatch(longest, matches, [], max(awaitable_length, len(longest.cells)))

    def _offer(self, matches: list[CellMatch], sequence_id: int, cells: Cells, length: int) -> None:
        """Note that the first `length` cells of a sequence match, if they are the most of its partition."""
        partition = self._partitions[sequence_id]
        if length > len(matches[partition].cells) and self._backend.can_share(sequence_id, length):
            matches[partition] = CellMatch(sequence_id, cells[:length])

    def _trim(self, running: Iterable[ChoiceSequence]) -> None:
        """Evict finished sequences until they hold no cell besides those of running ones.

        llama.cpp's attention passes over every cell up to the highest used one, so that idle cells slow down every
        step; benchmarks/README.md has the measurement. While nothing runs, they cost nothing.
        """
        running = list(running)
        while running and self._finished and self.available(running) > self.allocator.free:
            self._evict()

    def _restore(self, sequence: ChoiceSequence, sequence_id: int, span: SegmentSpan) -> bool:
        """Append offloaded cells to the sequence. False if there is no room for them."""
        segment = span.segment
        surplus = segment.length - (span.end - span.start)
        if (surplus and not self._backend.reuses_cells) or not self._evict_until_free(segment.length):
            return False
        temporary_id = self._free_ids.pop()
        self._place(temporary_id, self._partitions[sequence_id])
        if not self._backend.restore(temporary_id, segment.state, segment.scope.adapter):
            self._free_ids.append(temporary_id)
            return False
        position_of = sequence.request.position_of
        self._backend.share(temporary_id, sequence_id, position_of(span.start), position_of(span.end))
        self._backend.forget(temporary_id)
        self._free_ids.append(temporary_id)
        cells = self.allocator.allocate(segment.length)
        first, last = span.start - segment.start, span.end - segment.start
        sequence.cells = np.concatenate((sequence.cells, cells[first:last]))
        self.allocator.release(np.concatenate((cells[:first], cells[last:])))
        self.host_cache.mark_used(segment)
        return True

    def _evict_until_free(self, cells: int) -> bool:
        while self.allocator.free < cells:
            if not self._finished:
                return False
            self._evict()
        return True

    def _evict(self) -> None:
        """Evict the least recently used sequence. Cells that no other sequence holds are offloaded first."""
        entry = min(self._finished, key=lambda entry: entry.last_used)
        start = len(entry.cells) - self.allocator.count_exclusive(entry.cells)
        self._offload(entry, start)
        self._drop(entry)

    def _offload(self, entry: CachedSequence, start: int) -> None:
        """Copy the entry to host memory from position `start` on, except what is there already."""
        if self.host_cache.tokens and (host_spans := self.host_cache.match(entry.scope, entry.tokens, start)):
            start = host_spans[-1].end
        end = len(entry.tokens)
        if start == end:
            return
        temporary_id = self._free_ids.pop()
        self._place(temporary_id, self._partitions[entry.sequence_id])
        self._backend.share(entry.sequence_id, temporary_id, entry.position_of(start), entry.position_of(end))
        self.host_cache.store(entry.scope, entry.tokens, start, self._backend.save(temporary_id))
        self._backend.forget(temporary_id)
        self._free_ids.append(temporary_id)

    def _drop(self, entry: CachedSequence) -> None:
        self._finished.remove(entry)
        self._free(entry.sequence_id, entry.cells)

    def _allocate_id(self) -> int:
        """Take an id for a sequence. One id always remains for moving cells."""
        while len(self._free_ids) <= 1 and self._finished:
            self._evict()
        return self._free_ids.pop()

    def _free(self, sequence_id: int, cells: Cells) -> None:
        self._backend.forget(sequence_id)
        self._free_ids.append(sequence_id)
        self.allocator.release(cells)

    def _tick(self) -> int:
        self._clock += 1
        return self._clock
