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


_PLACEHOLDER = secrets.token_hex(16)
_QUOTED_PLACEHOLDER = b'"%b"' % _PLACEHOLDER.encode()

_encode_text: Callable[[str], bytes] = msgspec.json.Encoder().encode


class BaseResponseBuilder:
    """Implements codec.ResponseBuilder: keeps the state of every choice, and the usage at the end."""

    shows_reasoning = False
    """Whether the dialect has a field for reasoning."""
    text_chunks_are_alike = True
    """Whether the chunks of a choice's texts differ in their text only, from the second one on."""

    def __init__(self) -> None:
        self._choices: dict[int, ChoiceState] = {}
        self._usage: Usage | None = None
        self._text_templates: dict[int, tuple[bytes, bytes]] = {}
        """What stands before and behind the text in a chunk of each choice that has had one."""

    def feed(self, event: Event) -> Iterable[SseEvent]:
        """Return the chunks of this event."""
        if type(event) is Delta and event.text and not event.logprobs and event.index in self._text_templates:
            before, behind = self._text_templates[event.index]
            self._choices[event.index].text_parts.append(event.text)
            return (SseEvent(b"%b%b%b" % (before, _encode_text(event.text), behind)),)
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
                if self.text_chunks_are_alike and index not in self._text_templates:
                    self._add_text_template(index)
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

    def _add_text_template(self, index: int) -> None:
        """Encode what the next chunks of the choice's text have in common: encoding them costs several times more."""
        before, _, behind = self.text_chunk(index, _PLACEHOLDER, ()).partition(_QUOTED_PLACEHOLDER)
        self._text_templates[index] = before, behind

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
