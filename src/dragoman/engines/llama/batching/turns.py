"""Whose turn it is to prefill."""

import heapq
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Set

from dragoman.engines.llama.batching.sequence import ChoiceSequence

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
            _, _, owner = heap[0]
            of_owner = by_owner[owner]
            yield of_owner.popleft()
            if of_owner and owner not in blocked:
                heapq.heapreplace(heap, (self.start_tag(owner), of_owner[0].arrival, owner))
            else:
                heapq.heappop(heap)
