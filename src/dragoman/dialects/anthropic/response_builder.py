"""Builds an answer block by block: the events of a stream and the whole answer from one state machine.

One block is open at a time, and indices have no gaps. A call is sent when its input is complete, so that one which
`max_tokens` cut off is left out, streamed or not. Tools with `eager_input_streaming` are the exception.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator

import msgspec
from msgspec import UNSET, Raw

from dragoman.core.errors import EngineFailed
from dragoman.core.events import CUT_OFF, Delta, Event, Finished, ReasoningDelta, Started, ToolCallDelta, Usage
from dragoman.dialects.anthropic import wire
from dragoman.dialects.anthropic.content import TOOL_USE_PREFIX
from dragoman.dialects.http.response_builder import around_text, encode_text
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


class _Block:
    """A block so far."""

    delta: type[wire.TextDelta | wire.ThinkingDelta | wire.InputJsonDelta]
    """A delta of its text."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._rendered_pieces = 0
        self._around_text: tuple[bytes, bytes] | None = None

    def add(self, text: str) -> None:
        self._pieces.append(text)

    def start(self) -> wire.AnswerBlock:
        """Return the block before its content."""
        raise NotImplementedError

    def take_text(self) -> Iterable[str]:
        """Return the texts of the deltas about what was added since the last call."""
        first, self._rendered_pieces = self._rendered_pieces, len(self._pieces)
        return self._pieces[first:]

    def end(self) -> Iterable[wire.BlockDelta]:
        """Return the deltas behind the content."""
        return ()

    def block(self) -> wire.AnswerBlock:
        """Return the whole block."""
        raise NotImplementedError

    def sse(self, index: int, text: str) -> SseEvent:
        """Return the stream's event for a delta of its text, with the block's number."""
        if self._around_text is None:
            self._around_text = around_text(lambda text: _encode(wire.ContentBlockDelta(index, self.delta(text))))
        before, behind = self._around_text
        return SseEvent(before + encode_text(text) + behind, "content_block_delta")


class _TextBlock(_Block):
    """A block of text."""

    delta = wire.TextDelta

    def start(self) -> wire.AnswerBlock:
        return wire.TextBlock("")

    def block(self) -> wire.AnswerBlock:
        return wire.TextBlock("".join(self._pieces))


class _ThinkingBlock(_Block):
    """A block of thinking, whose text may be hidden."""

    delta = wire.ThinkingDelta

    def __init__(self, *, is_shown: bool) -> None:
        super().__init__()
        self._is_shown = is_shown

    def start(self) -> wire.AnswerBlock:
        return wire.ThinkingBlock("", "")

    def take_text(self) -> Iterable[str]:
        return super().take_text() if self._is_shown else ()

    def end(self) -> Iterable[wire.BlockDelta]:
        return (wire.SignatureDelta(self._signature),)

    def block(self) -> wire.AnswerBlock:
        return wire.ThinkingBlock("".join(self._pieces) if self._is_shown else "", self._signature)

    @property
    def _signature(self) -> str:
        """Clients need one; nobody checks it."""
        return hashlib.sha256("".join(self._pieces).encode(errors="surrogatepass")).hexdigest()


class _CallBlock(_Block):
    """A block of a tool's call."""

    delta = wire.InputJsonDelta

    def __init__(self, call: ToolCallDelta, *, is_eager: bool) -> None:
        """`is_eager`: the input is rendered as it comes, and not at once."""
        super().__init__()
        self.call_index = call.call_index
        self._id = TOOL_USE_PREFIX + (call.id or "")
        self._name = call.name or ""
        self._is_eager = is_eager

    def start(self) -> wire.AnswerBlock:
        return wire.ToolUseBlock(self._id, self._name, _NO_INPUT)

    def take_text(self) -> Iterable[str]:
        pieces = super().take_text()
        if not self._is_eager:
            pieces = [self.input or ""] if pieces else []
        return filter(None, pieces)

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


class MessageBuilder:
    """Implements codec.ResponseBuilder."""

    def __init__(self, options: AnswerOptions) -> None:
        self._options = options
        self._started: Started | None = None
        self._blocks: list[_Block] = []
        self._open: _Block | None = None
        """The last block, if it is not complete."""
        self._held_call: _CallBlock | None = None
        """A call that is not among the blocks yet."""
        self._finished: Finished | None = None
        self._usage: Usage | None = None
        self._is_begun = False
        """Whether the stream has its first event."""
        self._rendered_starts = 0
        self._rendered_blocks = 0
        """The number of blocks whose start, and of those whose end, is in the stream."""

    def note(self, event: Event) -> None:
        """Add the event to the answer."""
        if type(event) is Delta:
            if event.text:
                self._send_held_call(is_cut_off=False)
                if not isinstance(self._open, _TextBlock):
                    self._begin(_TextBlock())
                self._blocks[-1].add(event.text)
        elif type(event) is Finished:
            self._finished = event
            self._send_held_call(is_cut_off=event.reason in CUT_OFF)
            self._open = None
        elif type(event) is Usage:
            self._usage = event
            self._start(Started(event.prompt_tokens, event.cached_tokens))
        elif type(event) is Started:
            self._start(event)
        elif type(event) is ReasoningDelta:
            if event.text:
                self._send_held_call(is_cut_off=False)
                if not isinstance(self._open, _ThinkingBlock):
                    self._begin(_ThinkingBlock(is_shown=self._options.shows_thinking))
                self._blocks[-1].add(event.text)
        elif type(event) is ToolCallDelta:
            self._extend_call(event)

    def feed(self, event: Event) -> Iterator[SseEvent]:
        """Add the event to the answer, and yield the stream's events that are new with it."""
        self.note(event)
        if self._started is not None and not self._is_begun:
            self._is_begun = True
            usage = _message_usage(Usage(self._started.prompt_tokens, 0, self._started.cached_tokens))
            yield _sse(wire.MessageStart(self._message([], None, None, usage)))
            yield _PING
        for index, block in enumerate(self._blocks[self._rendered_blocks :], self._rendered_blocks):
            if index == self._rendered_starts:
                self._rendered_starts += 1
                yield _sse(wire.ContentBlockStart(index, block.start()))
            for text in block.take_text():
                yield block.sse(index, text)
            if block is not self._open:
                self._rendered_blocks += 1
                for delta in block.end():
                    yield _sse(wire.ContentBlockDelta(index, delta))
                yield _sse(wire.ContentBlockStop(index))
        if type(event) is Usage:
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
        blocks = [block.block() for block in self._blocks]
        return _encode(self._message(blocks, reason, sequence, _message_usage(self._usage)))

    def _start(self, started: Started) -> None:
        """Note the first event, unless one was noted before."""
        if self._started is None:
            self._started = started

    def _begin(self, block: _Block) -> None:
        """Begin a block, and end the one before it."""
        self._start(Started(0, 0))
        self._blocks.append(block)
        self._open = block

    def _extend_call(self, delta: ToolCallDelta) -> None:
        call = self._held_call or self._open
        if not (isinstance(call, _CallBlock) and call.call_index == delta.call_index):
            self._send_held_call(is_cut_off=False)
            is_eager = delta.name in self._options.eager_tools
            call = _CallBlock(delta, is_eager=is_eager)
            if is_eager:
                self._begin(call)
            else:
                self._held_call = call
        call.add(delta.arguments)

    def _send_held_call(self, *, is_cut_off: bool) -> None:
        """Add the call that was held to the blocks, unless it was cut off in the middle of its input."""
        call = self._held_call
        if call is not None:
            self._held_call = None
            if not is_cut_off or call.input is not None:
                self._begin(call)

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
            case Finished(reason="content_filter"):
                return "refusal", None
            case Finished(reason="tool_calls"):
                return "tool_use", None
        has_call = any(isinstance(block, _CallBlock) for block in self._blocks)
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
