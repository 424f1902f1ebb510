"""The state machine between events and an answer's JSON, streamed or not; a dialect fills in the documents."""

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
from dragoman.dialects.http import sse


class ToolCallState:
    """One tool call, as far as it has been told."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self._arguments: list[str] = []

    def add(self, delta: ToolCallDelta) -> None:
        """Take the call's next piece."""
        self.id = delta.id or self.id
        self.name = delta.name or self.name
        self._arguments.append(delta.arguments)

    @property
    def arguments(self) -> str:
        """JSON text, once the call is complete."""
        return "".join(self._arguments)


class ChoiceState:
    """What one choice has said up to now."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.text_parts: list[str] = []
        self.reasoning_parts: list[str] = []
        self.logprobs: list[TokenLogprobs] = []
        self._tool_calls: dict[int, ToolCallState] = {}
        self._finish_reason: FinishReason | None = None

    def add_tool_call_delta(self, delta: ToolCallDelta) -> None:
        """Take the next piece of one of the choice's calls."""
        self._tool_calls.setdefault(delta.call_index, ToolCallState()).add(delta)

    def finish(self, reason: FinishReason) -> None:
        """Nothing more comes."""
        self._finish_reason = reason

    @property
    def text(self) -> str:
        """All of its text."""
        return "".join(self.text_parts)

    @property
    def reasoning(self) -> str:
        """All that it thought, where the dialect shows it."""
        return "".join(self.reasoning_parts)

    @property
    def tool_calls(self) -> list[ToolCallState]:
        """Its tool calls, in the order of their numbers."""
        return [call for _, call in sorted(self._tool_calls.items())]

    @property
    def content(self) -> str | None:
        """Its text as OpenAI's messages have it: None where it called tools instead of saying anything."""
        return self.text or (None if self._tool_calls else "")

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended."""
        assert self._finish_reason is not None, "the usage comes after every choice has finished"
        return self._finish_reason


class BaseResponseBuilder:
    """What every choice has said, and the usage at the end. Implements form.ResponseBuilder."""

    shows_reasoning = False
    """Whether the dialect has a field for what a choice thinks."""

    def __init__(self) -> None:
        self._choices: dict[int, ChoiceState] = {}
        self._usage: Usage | None = None

    def feed(self, event: Event) -> Iterator[bytes]:
        """The chunks this event gives, as JSON."""
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
            case ToolCallDelta(index):
                yield from self._open_choice(index)
                self._choices[index].add_tool_call_delta(event)
                yield from self.tool_call_chunks(event)
            case Finished(index, reason):
                yield from self._open_choice(index)
                self._choices[index].finish(reason)
                yield from self.finish_chunks(index, reason)
            case Usage():
                self._usage = event
                yield from self.usage_chunks(event)

    def terminator(self) -> bytes:
        """The frame after the last chunk."""
        return sse.DONE

    def build(self) -> bytes:
        """All chunks as one document. Raises EngineFailed when the engine broke off without an error."""
        if self._usage is None:
            raise EngineFailed("The engine ended its answer without telling its usage")
        return self.document(self._usage)

    def choices(self) -> list[ChoiceState]:
        """Every choice, in order."""
        return [choice for _, choice in sorted(self._choices.items())]

    def _open_choice(self, index: int) -> Iterable[bytes]:
        if index in self._choices:
            return ()
        self._choices[index] = ChoiceState(index)
        return self.opening_chunks(index)

    def opening_chunks(self, _index: int) -> Iterable[bytes]:
        """What comes before the first that a choice says; nothing unless the dialect has something."""
        return ()

    def text_chunk(self, index: int, text: str, logprobs: Sequence[TokenLogprobs]) -> bytes:
        """The chunk for new text of a choice. Only where log-probabilities were asked for, there are any."""
        raise NotImplementedError

    def reasoning_chunk(self, index: int, text: str) -> bytes:
        """The chunk for what a choice newly thought."""
        raise NotImplementedError

    def tool_call_chunks(self, _delta: ToolCallDelta) -> Iterable[bytes]:
        """The chunks for a piece of a tool call; none in a dialect without tools."""
        return ()

    def finish_chunks(self, index: int, reason: FinishReason) -> Iterable[bytes]:
        """What ends a choice."""
        raise NotImplementedError

    def usage_chunks(self, usage: Usage) -> Iterable[bytes]:
        """What ends the answer; nothing where it was not asked for."""
        raise NotImplementedError

    def document(self, usage: Usage) -> bytes:
        """The whole answer, not streamed."""
        raise NotImplementedError
