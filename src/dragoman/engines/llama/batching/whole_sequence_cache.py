"""The prefix cache of models whose sequences cannot be divided at will, and the choice between it and the usual one."""

from collections.abc import Iterable

from dragoman.engines.llama.arrays import TokenArray
from dragoman.engines.llama.batching.cache import NO_MATCH, CachedSequence, PrefixCache, PrefixMatch
from dragoman.engines.llama.batching.host_cache import HostKVCache, SegmentSpan, SharingScope
from dragoman.engines.llama.batching.sequence import ChoiceSequence
from dragoman.engines.llama.native.backend import Backend


class WholeSequenceCache(PrefixCache):
    """The cache of a model with sliding windows or a recurrent state, of whose sequences only short parts are saved.

    Host memory has whole sequences, each of which may be continued from its end.
    """

    def match(self, sequence: ChoiceSequence, running: Iterable[ChoiceSequence]) -> PrefixMatch:
        match = self._match_cells(sequence, running)
        if not self._backend.divisible_tokens:  # A recurrent state goes past the end of a common prefix.
            checkpoints = (other.next_checkpoint or 0 for other in running if other.request is sequence.request)
            match = match._replace(awaitable_length=max(len(match.cells), *checkpoints, 0))
        span = self._match_host(sequence.scope, sequence.shareable_tokens[:-1])
        if span is None or span.end <= len(match.cells):
            return match
        return PrefixMatch(NO_MATCH, [NO_MATCH] * self._backend.partitions, [span], match.awaitable_length)

    @property
    def needs_checkpoints(self) -> bool:
        return not self._backend.divisible_tokens

    def keep_checkpoint(self, sequence: ChoiceSequence) -> None:
        checkpoint = CachedSequence(sequence, self._allocate_id(), self._tick())
        self._backend.share(sequence.running_id, checkpoint.sequence_id, 0, sequence.computed)
        self.allocator.share(checkpoint.cells)
        checkpoint.is_checkpoint = True
        self._finished.append(checkpoint)

    def _match_host(self, scope: SharingScope, wanted: TokenArray) -> SegmentSpan | None:
        return self.host_cache.match_whole(scope, wanted, self._backend.divisible_tokens)

    def _offload(self, entry: CachedSequence, start: int) -> None:  # noqa: ARG002
        span = self._match_host(entry.scope, entry.tokens)
        if span is None or span.end < len(entry.tokens):
            self.host_cache.store(entry.scope, entry.tokens, 0, self._backend.save(entry.sequence_id))


def open_cache(backend: Backend, host_cache_tokens: int) -> PrefixCache:
    """Open the cache that suits the backend's model.

    `host_cache_tokens`: the most tokens of finished sequences whose cells are kept in host memory. A recurrent state is
    as large for one token as for many, so that host memory has no more of them than there are sequences.
    """
    if backend.divisible_tokens >= backend.cells:
        return PrefixCache(backend, HostKVCache(host_cache_tokens))
    min_charge = 0 if backend.divisible_tokens else host_cache_tokens // backend.sequence_ids
    return WholeSequenceCache(backend, HostKVCache(host_cache_tokens, min_charge=min_charge))
