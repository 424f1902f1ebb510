"""Finished sequences' cells outside the KV cache, in main memory, where they cost the model's steps nothing."""

from typing import NamedTuple

from dragoman.engines.llama.arrays import SequenceState, TokenArray


class HostSegment:
    """The cells of the tokens from `start` on; those before it are held by someone else."""

    def __init__(self, adapter: int, tokens: TokenArray, start: int, state: SequenceState, last_used: int) -> None:
        self.adapter = adapter
        self.tokens = tokens
        """From the beginning of the sequence: cells mean something only behind the tokens they were computed after."""
        self.start = start
        self.state = state
        self.last_used = last_used

    @property
    def length(self) -> int:
        """Tokens whose cells are saved."""
        return len(self.tokens) - self.start


class SegmentSpan(NamedTuple):
    """The part of a segment, from position `start` to `end`, that continues what is there already."""

    segment: HostSegment
    start: int
    end: int


class HostKVCache:
    """Segments by their adapter and tokens, least recently used out first.

    They chain: one may begin where another one ends.
    """

    def __init__(self, limit: int) -> None:
        """`limit`: tokens whose cells are kept at most."""
        self._limit = limit
        self._segments: list[HostSegment] = []
        self._clock = 0
        self.tokens = 0
        """Tokens whose cells are saved."""

    def match(self, adapter: int, wanted: TokenArray, covered: int) -> list[SegmentSpan]:
        """The pieces that bring `wanted` on from position `covered`, in order, as far as they go."""
        spans: list[SegmentSpan] = []
        while best := max(self._continuations(adapter, wanted, covered), key=lambda span: span.end, default=None):
            spans.append(best)
            covered = best.end
        return spans

    def mark_used(self, segment: HostSegment) -> None:
        """The segment is of use now."""
        self._clock += 1
        segment.last_used = self._clock

    def store(self, adapter: int, tokens: TokenArray, start: int, state: SequenceState) -> None:
        """Keep the cells of `tokens` from `start` on, and give up others for them, if need be."""
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
        """Give up everything that was computed with this adapter."""
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
            # These comparisons rule most of them out.
            if segment.adapter == adapter
            and segment.start <= covered < len(segment.tokens)
            and segment.tokens[covered] == wanted[covered]
            and (end := common_prefix_length(wanted, segment.tokens)) > covered
        ]


def common_prefix_length(left: TokenArray, right: TokenArray) -> int:
    """Length of the longest common beginning."""
    length = min(len(left), len(right))
    if not length or left[0] != right[0]:
        return 0
    different = left[:length] != right[:length]
    first = int(different.argmax())
    return first if different[first] else length
