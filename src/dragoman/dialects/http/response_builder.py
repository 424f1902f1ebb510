"""The state machine that builds responses from events; a dialect supplies the documents."""

from collections.abc import Iterable, Iterator, Sequence

from dragoman.core.errors import EngineFailed
from dragoman.core.events import (
    Delta,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TokenLogprobs,
    ToolCallDelta,
    Usage,
)
from dragoman.dialects.http.sse import DONE, SseEvent


class ToolCallState:
    """One tool call so far."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self._arguments: list[str] = []

    def add(self, delta: ToolCallDelta) -> None:
        """Append the next part of the call."""
        self.id = delta.id or self.id
        self.name = delta.name or self.name
        self._arguments.append(delta.arguments)

    @property
    def arguments(self) -> str:
        """JSON text, once the call is complete."""
        return "".join(self._arguments)


class ChoiceState:
    """One choice so far."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.text_parts: list[str] = []
        self.reasoning_parts: list[str] = []
        self.logprobs: list[TokenLogprobs] = []
        self._tool_calls: dict[int, ToolCallState] = {}
        self._finish_reason: FinishReason | None = None
        self.stop_reason: str | int | None = None
        """The stop string or stop token that ended it."""

    def add_tool_call_delta(self, delta: ToolCallDelta) -> None:
        """Append the next part of one of the choice's calls."""
        self._tool_calls.setdefault(delta.call_index, ToolCallState()).add(delta)

    def finish(self, reason: FinishReason) -> None:
        """Mark the choice as complete."""
        self._finish_reason = reason

    @property
    def text(self) -> str:
        """Its whole text."""
        return "".join(self.text_parts)

    @property
    def reasoning(self) -> str:
        """Its whole reasoning, if the dialect shows it."""
        return "".join(self.reasoning_parts)

    @property
    def tool_calls(self) -> list[ToolCallState]:
        """Its tool calls, in the order of their numbers."""
        return [call for _, call in sorted(self._tool_calls.items())]

    @property
    def content(self) -> str | None:
        """Its text as in OpenAI's messages: None for a choice with tool calls only."""
        return self.text or (None if self._tool_calls else "")

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended."""
        assert self._finish_reason is not None, "the usage comes after every choice has finished"
        return self._finish_reason


class BaseResponseBuilder:
    """Implements codec.ResponseBuilder: keeps the state of every choice, and the usage at the end."""

    shows_reasoning = False
    """Whether the dialect has a field for reasoning."""

    def __init__(self) -> None:
        self._choices: dict[int, ChoiceState] = {}
        self._usage: Usage | None = None

    def feed(self, event: Event) -> Iterator[SseEvent]:
        """Return the chunks of this event."""
        return map(SseEvent, self._chunks(event))

    def _chunks(self, event: Event) -> Iterator[bytes]:
        match event:
            case Delta(index, text, _, logprobs) if text or logprobs:
                yield from self._open_choice(index)
                choice = self._choices[index]
                choice.text_parts.append(text)
                if logprobs:
                    choice.logprobs.extend(logprobs)
                yield self.text_chunk(index, text, logprobs)
            case ReasoningDelta(index, text) if text and self.shows_reasoning:
                yield from self._open_choice(index)
                self._choices[index].reasoning_parts.append(text)
                yield self.reasoning_chunk(index, text)
            case ToolCallDelta(index=index):
                yield from self._open_choice(index)
                self._choices[index].add_tool_call_delta(event)
                yield from self.tool_call_chunks(event)
            case Finished(index, reason, stop_reason):
                yield from self._open_choice(index)
                self._choices[index].finish(reason)
                self._choices[index].stop_reason = stop_reason
                yield from self.finish_chunks(index, reason)
            case Usage():
                self._usage = event
                yield from self.usage_chunks(event)

    def terminator(self) -> Iterable[SseEvent]:
        return (DONE,)

    def failure(self, error: SseEvent) -> Iterable[SseEvent]:
        return (error,)

    def keep_alive(self) -> SseEvent | None:
        return None

    def build(self) -> bytes:
        """Return all chunks as one document. Raises EngineFailed if the engine stopped without an error."""
        if self._usage is None:
            raise EngineFailed("The engine ended its answer without telling its usage")
        return self.document(self._usage)

    def choices(self) -> list[ChoiceState]:
        """Return every choice, in order."""
        return [choice for _, choice in sorted(self._choices.items())]

    def _open_choice(self, index: int) -> Iterable[bytes]:
        if index in self._choices:
            return ()
        self._choices[index] = ChoiceState(index)
        return self.opening_chunks(index)

    def opening_chunks(self, _index: int) -> Iterable[bytes]:
        """Return the chunks before a choice's first content. None by default."""
        return ()

    def text_chunk(self, index: int, text: str, logprobs: Sequence[TokenLogprobs]) -> bytes:
        """Return the chunk for new text of a choice. `logprobs` is empty unless requested."""
        raise NotImplementedError

    def reasoning_chunk(self, index: int, text: str) -> bytes:
        """Return the chunk for new reasoning of a choice."""
        raise NotImplementedError

    def tool_call_chunks(self, _delta: ToolCallDelta) -> Iterable[bytes]:
        """Return the chunks for a part of a tool call. None by default."""
        return ()

    def finish_chunks(self, index: int, reason: FinishReason) -> Iterable[bytes]:
        """Return the chunks that end a choice."""
        raise NotImplementedError

    def usage_chunks(self, usage: Usage) -> Iterable[bytes]:
        """Return the chunks that end the answer, if any."""
        raise NotImplementedError

    def document(self, usage: Usage) -> bytes:
        """Return the whole answer as one document."""
        raise NotImplementedError
