"""The state machine that builds responses from events; a dialect supplies the documents."""

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

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

    stop_reason: str | int | None = None
    """The stop string or stop token that ended it."""
    _finish_reason: FinishReason | None = None

    def __init__(self, index: int) -> None:
        self.index = index
        self.text_parts: list[str] = []
        self.reasoning_parts: list[str] = []
        self.logprobs: list[TokenLogprobs] = []
        self._tool_calls: dict[int, ToolCallState] = {}

    def add_tool_call_delta(self, delta: ToolCallDelta) -> None:
        """Append the next part of one of the choice's calls."""
        self._tool_calls.setdefault(delta.call_index, ToolCallState()).add(delta)

    def finish(self, reason: FinishReason, stop_reason: str | int | None) -> None:
        """Mark the choice as complete."""
        self._finish_reason = reason
        self.stop_reason = stop_reason

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
        return [self._tool_calls[number] for number in sorted(self._tool_calls)]

    @property
    def content(self) -> str | None:
        """Its text as in OpenAI's messages: None for a choice with tool calls only."""
        return self.text or (None if self._tool_calls else "")

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended."""
        assert self._finish_reason is not None, "the usage comes after every choice has finished"
        return self._finish_reason


_PLACEHOLDER = secrets.token_hex(16)
_QUOTED_PLACEHOLDER = b'"%b"' % _PLACEHOLDER.encode()

encode_text: Callable[[str], bytes] = msgspec.json.Encoder().encode


def around_text(encode: Callable[[str], bytes]) -> tuple[bytes, bytes]:
    """Return what stands before and behind the text in the JSON of a text: encoding it each time costs more."""
    before, _, behind = encode(_PLACEHOLDER).partition(_QUOTED_PLACEHOLDER)
    return before, behind


class BaseResponseBuilder:
    """Implements codec.ResponseBuilder: keeps the state of every choice, and the usage at the end."""

    shows_reasoning = False
    """Whether the dialect has a field for reasoning."""
    text_chunks_are_alike = True
    """Whether the chunks of a choice's texts differ in their text only, from the second one on."""
    beginning = ""
    """Text of every choice before the model's."""

    _usage: Usage | None = None

    def __init__(self) -> None:
        self._choices: dict[int, ChoiceState] = {}
        self._opened: set[int] = set()
        """The choices that have chunks."""
        self._text_templates: dict[int, tuple[bytes, bytes, list[str]]] = {}
        """What stands before and behind the text in a chunk of each choice that has had one, and its text parts."""

    def note(self, event: Event) -> None:
        """Add the event to the answer."""
        if type(event) is Delta:
            if event.text or event.logprobs:
                choice = self._choices.get(event.index) or self._choice_state(event.index)
                choice.text_parts.append(event.text)
                if event.logprobs:
                    choice.logprobs += event.logprobs
        elif type(event) is Finished:
            self._choice_state(event.index).finish(event.reason, event.stop_reason)
        elif type(event) is Usage:
            self._usage = event
        elif type(event) is ReasoningDelta:
            if event.text and self.shows_reasoning:
                self._choice_state(event.index).reasoning_parts.append(event.text)
        elif type(event) is ToolCallDelta:
            self._choice_state(event.index).add_tool_call_delta(event)

    def feed(self, event: Event) -> Iterable[SseEvent]:
        """Add the event to the answer, and return its chunks."""
        if (
            type(event) is Delta
            and event.text
            and not event.logprobs
            and (template := self._text_templates.get(event.index))
        ):
            before, behind, text_parts = template
            text_parts.append(event.text)
            return (SseEvent(before + encode_text(event.text) + behind),)
        self.note(event)
        return map(SseEvent, self._chunks(event))

    def _chunks(self, event: Event) -> Iterator[bytes]:
        match event:
            case Delta(index, text, _, logprobs) if text or logprobs:
                yield from self._open_choice(index)
                yield self.text_chunk(index, text, logprobs)
                if self.text_chunks_are_alike and index not in self._text_templates:
                    before, behind = around_text(lambda text: self.text_chunk(index, text, ()))
                    self._text_templates[index] = before, behind, self._choices[index].text_parts
            case ReasoningDelta(index, text) if text and self.shows_reasoning:
                yield from self._open_choice(index)
                yield self.reasoning_chunk(index, text)
            case ToolCallDelta(index=index):
                yield from self._open_choice(index)
                yield from self.tool_call_chunks(event)
            case Finished(index, reason):
                yield from self._open_choice(index)
                yield from self.finish_chunks(index, reason)
            case Usage():
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
        return [self._choices[index] for index in sorted(self._choices)]

    def _choice_state(self, index: int) -> ChoiceState:
        if (choice := self._choices.get(index)) is None:
            choice = self._choices[index] = ChoiceState(index)
            if beginning := self.beginning:
                choice.text_parts.append(beginning)
        return choice

    def _open_choice(self, index: int) -> Iterable[bytes]:
        if index in self._opened:
            return ()
        self._opened.add(index)
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
