"""Cells of finished sequences in host memory, and what may be shared of them and of those in the KV cache.

Outside the KV cache they do not slow down the model's steps.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from dragoman.engines.llama.arrays import SequenceState, TokenArray

_MIN_CHARGE = 16
"""What a segment counts as at least, in tokens: each one is compared with every prompt."""


class SharingScope(NamedTuple):
    """What decides which cells a sequence may share with another one."""

    adapter: int
    """A cell holds what was computed with one adapter."""
    owner: str
    cache_salt: str
    public_tokens: int = 0
    """Tokens at the beginning of its prompt that may be shared with every owner."""

    def max_shared_tokens(self, other: "SharingScope") -> int | None:
        """Return how much of a common prefix two sequences may share. None: all of it."""
        if self.adapter != other.adapter:
            return 0
        if self.owner == other.owner and self.cache_salt == other.cache_salt:
            return None
        return min(self.public_tokens, other.public_tokens)


def shared_prefix_length(scope: SharingScope, wanted: TokenArray, other: SharingScope, tokens: TokenArray) -> int:
    """Return the length of the common prefix as far as it may be shared."""
    limit = scope.max_shared_tokens(other)
    if limit == 0:
        return 0
    common = common_prefix_length(wanted, tokens)
    return common if limit is None else min(common, limit)


def common_prefix_length(left: TokenArray, right: TokenArray) -> int:
    """Return the length of the longest common prefix."""
    length = min(len(left), len(right))
    if not length or left[0] != right[0]:
        return 0
    different = left[:length] != right[:length]
    first = int(different.argmax())
    return first if different[first] else length


class HostSegment:
    """The cells of the tokens from `start` on. Those before it are in another segment or in the KV cache."""

    def __init__(
        self, scope: SharingScope, tokens: TokenArray, start: int, state: SequenceState, last_used: int
    ) -> None:
        self.scope = scope
        self.tokens = tokens
        """From the beginning of the sequence: the content of a cell depends on all tokens before it."""
        self.start = start
        self.state = state
        self.last_used = last_used
        self.was_offered = False
        """Whether it was offered to what saves segments on disk, or comes from there."""

    @property
    def length(self) -> int:
        """Number of tokens whose cells are in host memory."""
        return len(self.tokens) - self.start

    @property
    def size(self) -> int:
        """Number of tokens that take as much memory with their cells: it holds the tokens before its own, too."""
        own_bytes = len(self.state) + self.length * self.tokens.itemsize
        return -(-self.length * (len(self.state) + self.tokens.nbytes) // own_bytes) if self.length else 0


class SegmentSpan(NamedTuple):
    """The part of a segment, from position `start` to `end`, that continues the cells found so far."""

    segment: HostSegment
    start: int
    end: int


class SegmentSaver(Protocol):
    """Saves segments of host memory beyond the process's end."""

    def offer(self, chain: Sequence[HostSegment]) -> bool:
        """Take the segments of one sequence, in order, to be saved later. False: it has no room for them now."""
        ...


class HostKVCache:
    """Segments by scope and tokens. The least recently used one is dropped first.

    Segments chain: one may begin where another one ends.
    """

    def __init__(self, limit: int, min_charge: int = 0) -> None:
        """`limit`: in tokens with their cells. A segment counts as those that take its memory, or as `min_charge`."""
        self.limit = limit
        self._min_charge = min_charge
        self._segments: list[HostSegment] = []
        self._clock = 0
        self.tokens = 0
        """Number of tokens that the segments in host memory count as."""

    def match(self, scope: SharingScope, wanted: TokenArray, covered: int) -> list[SegmentSpan]:
        """Find the spans that continue `wanted` from position `covered`, in order."""
        spans: list[SegmentSpan] = []
        while best := max(self._continuations(scope, wanted, covered), key=lambda span: span.end, default=None):
            spans.append(best)
            covered = best.end
        return spans

    def match_whole(self, scope: SharingScope, wanted: TokenArray, divisible_tokens: int) -> SegmentSpan | None:
        """Find the longest span at the beginning of `wanted` that is a whole segment, or in one of `divisible_tokens`.

        All segments begin with their sequences.
        """
        spans = self._continuations(scope, wanted, 0)
        usable = (span for span in spans if span.end == span.segment.length or span.segment.length <= divisible_tokens)
        return max(usable, key=lambda span: span.end, default=None)

    def mark_used(self, segment: HostSegment) -> None:
        """Note that the segment was used now."""
        self._clock += 1
        segment.last_used = self._clock

    def store(self, scope: SharingScope, tokens: TokenArray, start: int, state: SequenceState) -> None:
        """Store the cells of `tokens` from `start` on, and drop other segments if there is no room."""
        self.insert(HostSegment(scope, tokens, start, state, 0))

    def insert(self, segment: HostSegment) -> None:
        """Store a segment, and drop others if there is no room."""
        if self._charge(segment) > self.limit:
            return
        self.mark_used(segment)
        self._segments.append(segment)
        self.tokens += self._charge(segment)
        while self.tokens > self.limit:
            oldest = min(self._segments, key=lambda segment: segment.last_used)
            self._remove(oldest)

    def offer_to(self, saver: SegmentSaver) -> bool:
        """Offer the segments of one sequence to be saved. False: there are none, or the saver has no room for them."""
        chain = self.unoffered_chain()
        if not chain or not saver.offer(chain):
            return False
        chain[-1].was_offered = True
        return True

    def unoffered_chain(self) -> list[HostSegment]:
        """Return the segments of the sequence used last that was not offered yet, in order. Empty: there is none.

        A sequence whose beginning is not in host memory is left out.
        """
        for last in sorted(self._segments, key=lambda segment: -segment.last_used):
            if not last.was_offered:
                spans = self.match(last.scope, last.tokens[: last.start], 0)
                if (spans[-1].end if spans else 0) == last.start:
                    return [*(span.segment for span in spans), last]
                last.was_offered = True
        return []

    def forget_adapter(self, adapter: int) -> None:
        """Drop everything that was computed with this adapter."""
        for segment in [segment for segment in self._segments if segment.scope.adapter == adapter]:
            self._remove(segment)

    def _remove(self, segment: HostSegment) -> None:
        self._segments.remove(segment)
        self.tokens -= self._charge(segment)

    def _charge(self, segment: HostSegment) -> int:
        return max(segment.size, self._min_charge, _MIN_CHARGE)

    def _continuations(self, scope: SharingScope, wanted: TokenArray, covered: int) -> list[SegmentSpan]:
        if covered >= len(wanted):
            return []
        return [
            SegmentSpan(segment, covered, end)
            for segment in self._segments
            # These comparisons exclude most segments.
            if segment.start <= covered < len(segment.tokens)
            and segment.tokens[covered] == wanted[covered]
            and (end := shared_prefix_length(scope, wanted, segment.scope, segment.tokens)) > covered
        ]
