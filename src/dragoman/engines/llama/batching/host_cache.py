"""Cells of finished sequences in host memory. Outside the KV cache they do not slow down the model's steps."""

from typing import NamedTuple

from dragoman.engines.llama.arrays import SequenceState, TokenArray


class HostSegment:
    """The cells of the tokens from `start` on. Those before it are in another segment or in the KV cache."""

    def __init__(self, adapter: int, tokens: TokenArray, start: int, state: SequenceState, last_used: int) -> None:
        self.adapter = adapter
        self.tokens = tokens
        """From the beginning of the sequence: the content of a cell depends on all tokens before it."""
        self.start = start
        self.state = state
        self.last_used = last_used

    @property
    def length(self) -> int:
        """Number of tokens whose cells are in host memory."""
        return len(self.tokens) - self.start


class SegmentSpan(NamedTuple):
    """The part of a segment, from position `start` to `end`, that continues the cells found so far."""

    segment: HostSegment
    start: int
    end: int


class HostKVCache:
    """Segments by adapter and tokens. The least recently used one is dropped first.

    Segments chain: one may begin where another one ends.
    """

    def __init__(self, limit: int) -> None:
        """`limit`: the most tokens whose cells are kept."""
        self._limit = limit
        self._segments: list[HostSegment] = []
        self._clock = 0
        self.tokens = 0
        """Number of tokens whose cells are in host memory."""

    def match(self, adapter: int, wanted: TokenArray, covered: int) -> list[SegmentSpan]:
        """Find the spans that continue `wanted` from position `covered`, in order."""
        spans: list[SegmentSpan] = []
        while best := max(self._continuations(adapter, wanted, covered), key=lambda span: span.end, default=None):
            spans.append(best)
            covered = best.end
        return spans

    def mark_used(self, segment: HostSegment) -> None:
        """Note that the segment was used now."""
        self._clock += 1
        segment.last_used = self._clock

    def store(self, adapter: int, tokens: TokenArray, start: int, state: SequenceState) -> None:
        """Store the cells of `tokens` from `start` on, and drop other segments if there is no room."""
        if len(tokens) - start > self._limit:
            return
        segment = HostSegment(adapter, tokens, start, state, 0)
        self.mark_used(segment)
        self._segments.append(segment)
        self.tokens += segment.length
        while self.tokens > self._limit:
            oldest = min(self._segments, key=lambda segment: segment.last_used)
            self._remove(oldest)

    def forget_adapter(self, adapter: int) -> None:
        """Drop everything that was computed with this adapter."""
        for segment in [segment for segment in self._segments if segment.adapter == adapter]:
            self._remove(segment)

    def _remove(self, segment: HostSegment) -> None:
        self._segments.remove(segment)
        self.tokens -= segment.length

    def _continuations(self, adapter: int, wanted: TokenArray, covered: int) -> list[SegmentSpan]:
        if covered >= len(wanted):
            return []
        return [
            SegmentSpan(segment, covered, end)
            for segment in self._segments
            # These comparisons exclude most segments.
            if segment.adapter == adapter
            and segment.start <= covered < len(segment.tokens)
            and segment.tokens[covered] == wanted[covered]
            and (end := common_prefix_length(wanted, segment.tokens)) > covered
        ]


def common_prefix_length(left: TokenArray, right: TokenArray) -> int:
    """Return the length of the longest common prefix."""
    length = min(len(left), len(right))
    if not length or left[0] != right[0]:
        return 0
    different = left[:length] != right[:length]
    first = int(different.argmax())
    return first if different[first] else length
