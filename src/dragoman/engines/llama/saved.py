"""Finished sequences' cells outside the KV cache, in main memory, where they cost the model's steps nothing."""

from typing import NamedTuple

from dragoman.engines.llama.context import State
from dragoman.engines.llama.model import TokenArray


class Segment:
    """The cells of the tokens from `start` on; those before it are held by someone else."""

    def __init__(self, adapter: int, tokens: TokenArray, start: int, state: State, last_used: int) -> None:
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


class Piece(NamedTuple):
    """The part of a segment, from position `start` to `end`, that continues what is there already."""

    segment: Segment
    start: int
    end: int


class SavedSegments:
    """Segments by their adapter and tokens, least recently used out first.

    They chain: one may begin where another one ends.
    """

    def __init__(self, limit: int) -> None:
        """`limit`: tokens whose cells are kept at most."""
        self._limit = limit
        self._segments: list[Segment] = []
        self._clock = 0
        self.tokens = 0
        """Tokens whose cells are saved."""

    def match(self, adapter: int, wanted: TokenArray, covered: int) -> list[Piece]:
        """The pieces that bring `wanted` on from position `covered`, in order, as far as they go."""
        pieces: list[Piece] = []
        while best := max(self._continuing(adapter, wanted, covered), key=lambda piece: piece.end, default=None):
            pieces.append(best)
            covered = best.end
        return pieces

    def touch(self, segment: Segment) -> None:
        """The segment is of use now."""
        self._clock += 1
        segment.last_used = self._clock

    def save(self, adapter: int, tokens: TokenArray, start: int, state: State) -> None:
        """Keep the cells of `tokens` from `start` on, and give up others for them, if need be."""
        if len(tokens) - start > self._limit:
            return
        segment = Segment(adapter, tokens, start, state, 0)
        self.touch(segment)
        self._segments.append(segment)
        self.tokens += segment.length
        while self.tokens > self._limit:
            oldest = min(self._segments, key=lambda segment: segment.last_used)
            self._remove(oldest)

    def forget_adapter(self, adapter: int) -> None:
        """Give up everything that was computed with this adapter."""
        for segment in [segment for segment in self._segments if segment.adapter == adapter]:
            self._remove(segment)

    def _remove(self, segment: Segment) -> None:
        self._segments.remove(segment)
        self.tokens -= segment.length

    def _continuing(self, adapter: int, wanted: TokenArray, covered: int) -> list[Piece]:
        if covered >= len(wanted):
            return []
        return [
            Piece(segment, covered, end)
            for segment in self._segments
            # These comparisons rule most of them out.
            if segment.adapter == adapter
            and segment.start <= covered < len(segment.tokens)
            and segment.tokens[covered] == wanted[covered]
            and (end := common_prefix(wanted, segment.tokens)) > covered
        ]


def common_prefix(left: TokenArray, right: TokenArray) -> int:
    """Length of the longest common beginning."""
    length = min(len(left), len(right))
    if not length or left[0] != right[0]:
        return 0
    different = left[:length] != right[:length]
    first = int(different.argmax())
    return first if different[first] else length
