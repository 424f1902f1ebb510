"""Resume an answer whose first events are stored."""

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from dragoman.core.errors import EngineFailed
from dragoman.core.events import AnyDelta, Event, Started, Usage
from dragoman.core.request import GenerationRequest
from dragoman.core.tasks import Task


def can_resume(requests: Sequence[Task]) -> bool:
    """Whether an engine can resume the answers: log-probabilities and candidates of best_of cannot be restored.

    Vectors come all at once.
    """
    return all(
        isinstance(request, GenerationRequest)
        and request.logprobs is None
        and request.prompt_logprobs is None
        and request.best_of is None
        for request in requests
    )


def resumed_requests(requests: Sequence[Task], stored: Sequence[Event]) -> tuple[GenerationRequest, ...]:
    """Return the requests with the tokens that their answers have so far."""
    tokens: defaultdict[int, list[int]] = defaultdict(list)
    for event in stored:
        if isinstance(event, AnyDelta):
            tokens[event.index] += event.token_ids
    resumed: list[GenerationRequest] = []
    index = 0
    for request in requests:
        assert isinstance(request, GenerationRequest), "no other can resume"
        choices = tuple(tuple(tokens[index + choice]) for choice in range(request.n))
        resumed.append(msgspec.structs.replace(request, resume_token_ids=choices if any(choices) else ()))
        index += request.n
    return tuple(resumed)


class ReplayFilter:
    """Separates stored events from new ones when an engine replays an answer from the beginning.

    The replay may split tokens that came in one event. Therefore the filter counts tokens instead of events, for each
    choice, and then the events without tokens that follow the last token.
    """

    def __init__(self, stored: Sequence[Event] = ()) -> None:
        self._tokens: defaultdict[int, int] = defaultdict(int)
        """For each choice, the stored tokens still to be replayed."""
        self._tokenless_events: defaultdict[int, int] = defaultdict(int)
        """For each choice, the stored events without tokens that follow them."""
        self._has_started = bool(stored)
        for event in stored:
            if isinstance(event, Started | Usage):
                continue
            if count := _token_count(event):
                self._tokens[event.index] += count
                self._tokenless_events[event.index] = 0
            else:
                self._tokenless_events[event.index] += 1

    def is_stored(self, event: Event) -> bool:
        """Whether the next replayed event is stored. Raises EngineFailed if only a part of it is stored."""
        if isinstance(event, Usage):
            if any(self._tokens.values()):
                raise EngineFailed("The engine did not send again what it had generated")
            return False
        if isinstance(event, Started):
            return self._has_started
        count, missing = _token_count(event), self._tokens[event.index]
        if count > missing:
            if missing:
                raise EngineFailed("The engine sent what it had generated in other pieces")
            return False
        if missing:
            self._tokens[event.index] -= count
            return True
        if self._tokenless_events[event.index]:
            self._tokenless_events[event.index] -= 1
            return True
        return False


def _token_count(event: Event) -> int:
    return event.tokens if isinstance(event, AnyDelta) else 0
