"""best_of: more candidates are generated than answered, and the likeliest of them are the answer."""

import math
from collections.abc import Iterator, Sequence

import msgspec

from dragoman.core.events import Delta, Event, Usage
from dragoman.core.request import GenerationRequest


def as_candidates(request: GenerationRequest) -> GenerationRequest:
    """The request that generates all candidates, with the log-probabilities they are compared by."""
    return msgspec.structs.replace(
        request, n=request.best_of or request.n, best_of=None, logprobs=request.logprobs or 0
    )


class Contest:
    """Holds the candidates of a whole request back until its end, and then tells the best of each prompt."""

    def __init__(self, n: int, best_of: int, *, tells_logprobs: bool) -> None:
        """Of `best_of` candidates a prompt, `n` are told, with their log-probabilities where those were asked for."""
        self._n = n
        self._best_of = best_of
        self._tells_logprobs = tells_logprobs
        self._events: dict[int, list[Event]] = {}

    @classmethod
    def over(cls, requests: Sequence[GenerationRequest]) -> "Contest | None":
        """The contest that requests alike in all but their prompts ask for; None: all that is generated is told."""
        asked = requests[0]
        if asked.best_of is None or asked.best_of == asked.n:
            return None
        return cls(asked.n, asked.best_of, tells_logprobs=asked.logprobs is not None)

    def feed(self, event: Event) -> Iterator[Event]:
        """What may be told now: nothing, until the usage comes; it counts all candidates."""
        if not isinstance(event, Usage):
            self._events.setdefault(event.index, []).append(event)
            return
        for first in range(0, len(self._events), self._best_of):
            candidates = range(first, first + self._best_of)
            best = sorted(candidates, key=lambda index: -_mean_logprob(self._events[index]))
            for rank, index in enumerate(best[: self._n]):
                yield from self._told(index, first // self._best_of * self._n + rank)
        yield event

    def _told(self, index: int, new_index: int) -> Iterator[Event]:
        for event in self._events[index]:
            assert not isinstance(event, Usage), "it is not held back"
            told = msgspec.structs.replace(event, index=new_index)
            if isinstance(told, Delta) and not self._tells_logprobs:
                told = msgspec.structs.replace(told, logprobs=[])
            yield told


def _mean_logprob(events: Sequence[Event]) -> float:
    """Of the tokens told. A candidate that says nothing is no better than the unlikeliest."""
    # Deltas without sampled tokens repeat the prompt, which is no merit of the candidate.
    deltas = [event for event in events if isinstance(event, Delta) and event.token_ids]
    logprobs = [told.logprob for delta in deltas for told in delta.logprobs if told.logprob is not None]
    return math.fsum(logprobs) / len(logprobs) if logprobs else -math.inf
