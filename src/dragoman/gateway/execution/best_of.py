"""best_of: more candidates are generated than returned, and those of the highest mean log-probability are."""

import contextlib
import math
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

import msgspec

from dragoman.core.events import ChoiceEvent, Delta, Embedding, Event, Started, Usage
from dragoman.core.request import GenerationRequest
from dragoman.core.tasks import Task


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
        self._events: dict[int, list[ChoiceEvent]] = {}

    def feed(self, event: Event) -> Iterator[Event]:
        """Return the events to deliver: none of a choice until the usage, which counts all candidates."""
        if isinstance(event, Started | Embedding):
            yield event
            return
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
            item = msgspec.structs.replace(event, index=new_index)
            if isinstance(item, Delta) and not self._include_logprobs:
                item = msgspec.structs.replace(item, logprobs=[])
            yield item


def _mean_logprob(events: Sequence[ChoiceEvent]) -> float:
    """Return the mean of the tokens returned. An empty candidate ranks last."""
    # Deltas without sampled tokens repeat the prompt, which does not count for the candidate.
    deltas = [event for event in events if isinstance(event, Delta) and event.tokens]
    logprobs = [item.logprob for delta in deltas for item in delta.logprobs if item.logprob is not None]
    return math.fsum(logprobs) / len(logprobs) if logprobs else -math.inf


async def best_of(
    requests: Sequence[Task], generate: Callable[[Sequence[Task]], AsyncGenerator[Event]]
) -> AsyncGenerator[Event]:
    """Generate the candidates of requests that differ in their prompts only, and yield the events of the best ones."""
    prompts = [request for request in requests if isinstance(request, GenerationRequest)]
    first = prompts[0]
    selector = BestOfSelector(first.n, first.best_of or first.n, include_logprobs=first.logprobs is not None)
    async with contextlib.aclosing(generate([*map(candidates_request, prompts)])) as events:
        async for event in events:
            for chosen in selector.feed(event):
                yield chosen
