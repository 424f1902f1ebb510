"""Builds an answer block by block: the events of a stream and the whole answer from one state machine.

One block is open at a time, and indices have no gaps. A call is sent when its input is complete, so that one which
`max_tokens` cut off is left out, streamed or not. Tools with `eager_input_streaming` are the exception.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import msgspec
from msgspec import UNSET, Raw

from dragoman.core.errors import EngineFailed
from dragoman.core.events import Delta, Event, Finished, ReasoningDelta, Started, ToolCallDelta, Usage
from dragoman.dialects.anthropic import wire
from dragoman.dialects.anthropic.content import TOOL_USE_PREFIX
from dragoman.dialects.http.sse import SseEvent

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode

_NO_INPUT = Raw(b"{}")

_PING = SseEvent(_encode(wire.Ping()), "ping")


class AnswerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer has from its request."""

    id: str
    model: str
    max_tokens: int
    shows_thinking: bool
    """Whether blocks of thinking have their text."""
    eager_tools: frozenset[str]
    """Tools whose input is streamed as it is generated."""


class _TextBuilder:
    """A block of text."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def start(self) -> wire.AnswerBlock:
        return wire.TextBlock("")

    def add(self, text: str) -> Iterator[wire.BlockDelta]:
        self._pieces.append(text)
        yield wire.TextDelta(text)

    def end(self) -> Iterator[wire.BlockDelta]:
        return iter(())

    def block(self) -> wire.AnswerBlock:
        return wire.TextBlock("".join(self._pieces))


class _ThinkingBuilder:
    """A block of thinking, whose text may be hidden."""

    def __init__(self, *, is_shown: bool) -> None:
        self._pieces: list[str] = []
        self._is_shown = is_shown

    def start(self) -> wire.AnswerBlock:
        return wire.ThinkingBlock("", "")

    def add(self, text: str) -> Iterator[wire.BlockDelta]:
        self._pieces.append(text)
        if self._is_shown:
            yield wire.ThinkingDelta(text)

    def end(self) -> Iterator[wire.BlockDelta]:
        yield wire.SignatureDelta(self._signature)

    def block(self) -> wire.AnswerBlock:
        return wire.ThinkingBlock("".join(self._pieces) if self._is_shown else "", self._signature)

    @property
    def _signature(self) -> str:
        """Clients need one; nobody checks it."""
        return hashlib.sha256("".join(self._pieces).encode(errors="surrogatepass")).hexdigest()


class _CallBuilder:
    """A block of a tool's call."""

    def __init__(self, call_index: int, engine_id: str, name: str) -> None:
        self.call_index = call_index
        self._id = TOOL_USE_PREFIX + engine_id
        self._name = name
        self._pieces: list[str] = []

    def start(self) -> wire.AnswerBlock:
        return wire.ToolUseBlock(self._id, self._name, _NO_INPUT)

    def add(self, text: str) -> Iterator[wire.BlockDelta]:
        self._pieces.append(text)
        if text:
            yield wire.InputJsonDelta(text)

    def end(self) -> Iterator[wire.BlockDelta]:
        return iter(())

    def block(self) -> wire.AnswerBlock:
        return wire.ToolUseBlock(self._id, self._name, _NO_INPUT if self.input is None else Raw(self.input.encode()))

    @property
    def input(self) -> str | None:
        """The input as JSON; None: what was generated is no JSON object."""
        text = "".join(self._pieces) or "{}"
        try:
            return text if isinstance(msgspec.json.decode(text), dict) else None
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            return None


_OpenBlock = _TextBuilder | _ThinkingBuilder | _CallBuilder
_Built = TypeVar("_Built", bound=_OpenBlock)


class MessageBuilder:
    """Implements codec.ResponseBuilder."""

    def __init__(self, options: AnswerOptions) -> None:
        self._options = options
        self._started: Started | None = None
        self._blocks: list[wire.AnswerBlock] = []
        self._open: _OpenBlock | None = None
        self._held_call: _CallBuilder | None = None
        """A call that was not sent yet."""
        self._finished: Finished | None = None
        self._usage: Usage | None = None

    def feed(self, event: Event) -> Iterator[SseEvent]:
        """Return the stream's events for this event."""
        match event:
            case Started():
                yield from self._start(event)
            case Delta(text=text) if text:
                yield from self._extend(_TextBuilder, _TextBuilder, text)
            case ReasoningDelta(text=text) if text:
                is_shown = self._options.shows_thinking
                yield from self._extend(_ThinkingBuilder, lambda: _ThinkingBuilder(is_shown=is_shown), text)
            case ToolCallDelta():
                yield from self._extend_call(event)
            case Finished():
                self._finished = event
                yield from self._send_held_call(is_cut_off=event.reason == "length")
                yield from self._close()
            case Usage():
                self._usage = event
                yield from self._start(Started(event.prompt_tokens, event.cached_tokens))
                reason, sequence = self._stop()
                yield _sse(wire.MessageDelta(wire.StopDelta(reason, sequence), _message_usage(event)))

    def terminator(self) -> Iterable[SseEvent]:
        return (_sse(wire.MessageStop()),)

    def failure(self, error: SseEvent) -> Iterable[SseEvent]:
        return (error,)

    def keep_alive(self) -> SseEvent | None:
        """Return a ping. Clients take nothing but comments before the first event."""
        return None if self._started is None else _PING

    def build(self) -> bytes:
        """Return the whole answer. Raises EngineFailed if the engine ended it without its usage."""
        if self._usage is None:
            raise EngineFailed("The engine ended its answer without telling its usage")
        reason, sequence = self._stop()
        return _encode(self._message(self._blocks, reason, sequence, _message_usage(self._usage)))

    def _start(self, started: Started) -> Iterator[SseEvent]:
        """Begin the stream, unless it has begun."""
        if self._started is None:
            self._started = started
            usage = _message_usage(Usage(started.prompt_tokens, 0, started.cached_tokens))
            yield _sse(wire.MessageStart(self._message([], None, None, usage)))
            yield _PING

    def _extend(self, kind: type[_Built], make: Callable[[], _Built], text: str) -> Iterator[SseEvent]:
        """Add to the open block if it is of this kind, else to a new one."""
        yield from self._send_held_call(is_cut_off=False)
        if not isinstance(self._open, kind):
            yield from self._begin(make())
        yield from self._add(text)

    def _extend_call(self, delta: ToolCallDelta) -> Iterator[SseEvent]:
        current = self._held_call or self._open
        if isinstance(current, _CallBuilder) and current.call_index == delta.call_index:
            if current is self._open:
                yield from self._add(delta.arguments)
                return
        else:
            yield from self._send_held_call(is_cut_off=False)
            current = _CallBuilder(delta.call_index, delta.id or "", delta.name or "")
            if delta.name in self._options.eager_tools:
                yield from self._begin(current)
                yield from self._add(delta.arguments)
                return
            self._held_call = current
        for _ in current.add(delta.arguments):
            pass

    def _send_held_call(self, *, is_cut_off: bool) -> Iterator[SseEvent]:
        """Send the call that was not sent yet, unless it was cut off in the middle of its input."""
        call, self._held_call = self._held_call, None
        if call is None or (is_cut_off and call.input is None):
            return
        yield from self._begin(call)
        if call.input is not None:
            yield self._block_delta(wire.InputJsonDelta(call.input))

    def _begin(self, block: _OpenBlock) -> Iterator[SseEvent]:
        yield from self._close()
        yield from self._start(Started(0, 0))
        self._open = block
        yield _sse(wire.ContentBlockStart(len(self._blocks), block.start()))

    def _add(self, text: str) -> Iterator[SseEvent]:
        assert self._open is not None, "a block is begun before it is extended"
        for delta in self._open.add(text):
            yield self._block_delta(delta)

    def _close(self) -> Iterator[SseEvent]:
        """End the open block, if there is one."""
        if self._open is None:
            return
        for delta in self._open.end():
            yield self._block_delta(delta)
        yield _sse(wire.ContentBlockStop(len(self._blocks)))
        self._blocks.append(self._open.block())
        self._open = None

    def _block_delta(self, delta: wire.BlockDelta) -> SseEvent:
        return _sse(wire.ContentBlockDelta(len(self._blocks), delta))

    def _stop(self) -> tuple[wire.StopReason, str | None]:
        """Return why the answer ended, and the stop sequence that ended it."""
        assert self._finished is not None, "the usage comes after the end"
        assert self._usage is not None, "asked for after the usage"
        match self._finished:
            case Finished(reason="length"):
                is_counted = self._usage.source != "estimated"
                is_full = is_counted and self._usage.completion_tokens < self._options.max_tokens
                return ("model_context_window_exceeded" if is_full else "max_tokens"), None
            case Finished(reason="stop", stop_reason=str(sequence)):
                return "stop_sequence", sequence
            case Finished(reason="tool_calls"):
                return "tool_use", None
        has_call = any(isinstance(block, wire.ToolUseBlock) for block in self._blocks)
        return ("tool_use" if has_call else "end_turn"), None

    def _message(
        self,
        content: list[wire.AnswerBlock],
        reason: wire.StopReason | None,
        sequence: str | None,
        usage: wire.MessageUsage,
    ) -> wire.MessageBody:
        return wire.MessageBody(
            id=self._options.id,
            model=self._options.model,
            content=content,
            stop_reason=reason,
            stop_sequence=sequence,
            usage=usage,
        )


def _message_usage(usage: Usage) -> wire.MessageUsage:
    details = wire.OutputTokensDetails(usage.reasoning_tokens) if usage.reasoning_tokens else UNSET
    return wire.MessageUsage(
        input_tokens=usage.prompt_tokens - usage.cached_tokens,
        cache_read_input_tokens=usage.cached_tokens,
        output_tokens=usage.completion_tokens,
        output_tokens_details=details,
    )


def _sse(event: wire.StreamEvent) -> SseEvent:
    kind = type(event).__struct_config__.tag
    return SseEvent(_encode(event), str(kind))
