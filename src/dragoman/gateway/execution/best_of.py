"""best_of: more candidates are generated than answered, and the likeliest of them are the answer."""

import math
from collections.abc import Iterator, Sequence

import msgspec

from dragoman.core.events import Delta, Event, Usage
from dragoman.core.request import GenerationRequest


def candidates_request(request: GenerationRequest) -> GenerationRequest:
    """The request that generates all candidates, with the log-probabilities they are compared by."""
    return msgspec.structs.replace(
        request, n=request.best_of or request.n, best_of=None, logprobs=request.logprobs or 0
    )


class BestOfSelector:
    """Holds the candidates of a whole request back until its end, and then tells the best of each prompt."""

    def __init__(self, n: int, best_of: int, *, include_logprobs: bool) -> None:
        """Of `best_of` candidates a prompt, `n` are told, with their log-probabilities where those were asked for."""
        self._n = n
        self._best_of = best_of
        self._include_logprobs = include_logprobs
        self._events: dict[int, list[Event]] = {}

    @classmethod
    def for_requests(cls, requests: Sequence[GenerationRequest]) -> "BestOfSelector | None":
        """The contest that requests alike in all but their prompts ask for; None: all that is generated is told."""
        first_request = requests[0]
        if first_request.best_of is None or first_request.best_of == first_request.n:
            return None
        return cls(first_request.n, first_request.best_of, include_logprobs=first_request.logprobs is not None)

    def feed(self, event: Event) -> Iterator[Event]:
        """What may be told now: nothing, until the usage comes; it counts all candidates."""
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
            assert not isinstance(event, Usage), "it is not held back"
            item = msgspec.structs.replace(event, index=new_index)
            if isinstance(item, Delta) and not self._include_logprobs:
                item = msgspec.structs.replace(item, logprobs=[])
            yield item


def _mean_logprob(events: Sequence[Event]) -> float:
    """Of the tokens told. A candidate that says nothing is no better than the unlikeliest."""
    # Deltas without sampled tokens repeat the prompt, which is no merit of the candidate.
    deltas = [event for event in events if isinstance(event, Delta) and event.token_ids]
    logprobs = [item.logprob for delta in deltas for item in delta.logprobs if item.logprob is not None]
    return math.fsum(logprobs) / len(logprobs) if logprobs else -math.inf
