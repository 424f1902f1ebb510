"""best_of: generate more candidates than choices, and answer with the likeliest."""

import math
from collections.abc import Iterator, Sequence

import msgspec

from dragoman.core.events import Delta, Event, Usage
from dragoman.core.request import GenerationRequest


def candidates_request(request: GenerationRequest) -> GenerationRequest:
    """Build the request that generates all candidates, with the log-probabilities that they are ranked by."""
    return msgspec.structs.replace(
        request, n=request.best_of or request.n, best_of=None, logprobs=request.logprobs or 0
    )


class BestOfSelector:
    """Buffers the candidates of a request until its end, and then returns the best of each prompt."""

    def __init__(self, n: int, best_of: int, *, include_logprobs: bool) -> None:
        """Of `best_of` candidates per prompt, `n` are returned, with log-probabilities if they were requested."""
        self._n = n
        self._best_of = best_of
        self._include_logprobs = include_logprobs
        self._events: dict[int, list[Event]] = {}

    @classmethod
    def for_requests(cls, requests: Sequence[GenerationRequest]) -> "BestOfSelector | None":
        """Build the selector for requests that differ in their prompts only; None: every candidate is returned."""
        first_request = requests[0]
        if first_request.best_of is None or first_request.best_of == first_request.n:
            return None
        return cls(first_request.n, first_request.best_of, include_logprobs=first_request.logprobs is not None)

    def feed(self, event: Event) -> Iterator[Event]:
        """Return the events to deliver: none until the usage, which counts all candidates."""
        if not isinstance(event, Usage):
            self._events.setdefault(event.index, []).append(event)
            return
        for first in range(0, len(self._events), self._best_of):
            candidates = range(first, first + self._best_of)
            ranked = sorted(candidates, key=lambda index: -_mean_logprob(self._events[index]))
            for rank, index in enumerate(ranked[: self._n]):
                yield from self._reindexed(index, first // self._best_of * self._n + rank)
        yield event

    def _reindexed(self, index: int, new_index: int) -> Iterator[Event]:
        for event in self._events[index]:
            assert not isinstance(event, Usage), "usage is not buffered"
            item = msgspec.structs.replace(event, index=new_index)
            if isinstance(item, Delta) and not self._include_logprobs:
                item = msgspec.structs.replace(item, logprobs=[])
            yield item


def _mean_logprob(events: Sequence[Event]) -> float:
    """Return the mean of the tokens returned. An empty candidate ranks last."""
    # Deltas without sampled tokens repeat the prompt, which does not count for the candidate.
    deltas = [event for event in events if isinstance(event, Delta) and event.token_ids]
    logprobs = [item.logprob for delta in deltas for item in delta.logprobs if item.logprob is not None]
    return math.fsum(logprobs) / len(logprobs) if logprobs else -math.inf
