"""Builds responses from events: the same items, streamed or not."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from dragoman.core.errors import EngineFailed
from dragoman.core.events import Delta, Event, Finished, PromptTokens, ReasoningDelta, ToolCallDelta, Unenforced, Usage
from dragoman.dialects.http.sse import DONE, SseEvent
from dragoman.dialects.responses import wire
from dragoman.dialects.responses.output_items import (
    CallState,
    MessageState,
    OutputItemState,
    ReasoningState,
    call_state,
)
from dragoman.dialects.responses.tools import ToolOrigin

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


class ResponsesBuilder:
    """Implements dialects.http.codec.ResponseBuilder. Items follow each other, each complete before the next."""

    def __init__(
        self,
        head: wire.ResponseBody,
        origins: Mapping[str, ToolOrigin],
        *,
        include_logprobs: bool = False,
        seal: Callable[[str], str] | None = None,
    ) -> None:
        """`head` is the response before it has begun. `seal` encrypts reasoning for the client; None: not asked for."""
        self.head = head
        self.completed_at = head.created_at
        """When the response was completed, in Unix seconds; to be set before the usage comes."""
        self._origins = origins
        self._include_logprobs = include_logprobs
        self._seal = seal
        self._answer_id = head.id.partition("_")[2]
        self._sequence_number = 0
        self._begun = False
        self._in_progress = False
        self._open: OutputItemState | None = None
        self._output: list[wire.Item] = []
        self._finish_reason: str | None = None
        self._final: wire.ResponseBody | None = None

    def feed(self, event: Event) -> Iterator[SseEvent]:
        if isinstance(event, Unenforced):
            return
        yield from self.begin()
        if isinstance(event, PromptTokens):
            return
        if not self._in_progress:
            self._in_progress = True
            yield self._event("response.in_progress", response=self._snapshot("in_progress"))
        match event:
            case Delta() if event.text or (event.logprobs and self._include_logprobs):
                yield from self._append_text(event)
            case ReasoningDelta() if event.text:
                yield from self._append_reasoning(event)
            case ToolCallDelta():
                yield from self._append_call(event)
            case Finished(_, reason):
                yield from self._finish(reason)
            case Usage():
                final = self.finish(event)
                yield self._event(f"response.{final.status}", response=final)

    def begin(self) -> Iterator[SseEvent]:
        """Yield the first events, once: those that need no event of the engine."""
        if self._begun:
            return
        self._begun = True
        status: wire.ResponseStatus = "queued" if self.head.background else "in_progress"
        yield self._event("response.created", response=self._snapshot(status))
        if self.head.background:
            yield self._event("response.queued", response=self._snapshot(status))

    def finish(self, usage: Usage) -> wire.ResponseBody:
        """Return the complete response. The same every time."""
        if self._final is None:
            is_complete = self._finish_reason != "length"
            self._final = msgspec.structs.replace(
                self._snapshot("completed" if is_complete else "incomplete"),
                completed_at=self.completed_at if is_complete else None,
                incomplete_details=None if is_complete else wire.IncompleteDetails("max_output_tokens"),
                usage=wire.ResponseUsage(
                    input_tokens=usage.prompt_tokens,
                    input_tokens_details=wire.InputTokensDetails(usage.cached_tokens),
                    output_tokens=usage.completion_tokens,
                    output_tokens_details=wire.OutputTokensDetails(usage.reasoning_tokens),
                    total_tokens=usage.prompt_tokens + usage.completion_tokens,
                ),
            )
        return self._final

    def failed(self, error: wire.ResponseError) -> wire.ResponseBody:
        """Return the response that failed, with the items that are complete."""
        return msgspec.structs.replace(self._snapshot("failed"), error=error)

    def terminator(self) -> Iterable[SseEvent]:
        return (DONE,)

    def failure(self, error: SseEvent) -> Iterable[SseEvent]:
        sent = msgspec.json.decode(error.data, type=wire.ResponseEvent)
        code = sent.code if isinstance(sent.code, str) else "server_error"
        message = sent.message if isinstance(sent.message, str) else ""
        yield from self.begin()
        yield self._sse(msgspec.structs.replace(sent, sequence_number=self._next_number()))
        failed = self.failed(wire.ResponseError(code, message))
        yield self._event("response.failed", response=failed)

    def keep_alive(self) -> SseEvent | None:
        return None

    def build(self) -> bytes:
        """Return the whole response. Raises EngineFailed if the engine stopped without an error."""
        if self._final is None:
            raise EngineFailed("The engine ended its answer without reporting its usage")
        return _encode(self._final)

    def _append_text(self, delta: Delta) -> Iterator[SseEvent]:
        if not isinstance(self._open, MessageState):
            yield from self._start(MessageState(self._item_id("msg"), len(self._output)))
        assert isinstance(self._open, MessageState)
        if not self._include_logprobs and delta.logprobs:
            delta = msgspec.structs.replace(delta, logprobs=[])
        yield from self._events(self._open.append(delta))

    def _append_reasoning(self, delta: ReasoningDelta) -> Iterator[SseEvent]:
        if not isinstance(self._open, ReasoningState):
            yield from self._start(ReasoningState(self._item_id("rs"), len(self._output), self._seal))
        assert isinstance(self._open, ReasoningState)
        yield from self._events(self._open.append(delta))

    def _append_call(self, delta: ToolCallDelta) -> Iterator[SseEvent]:
        if not (isinstance(self._open, CallState) and self._open.call_index == delta.call_index):
            origin = self._origins.get(delta.name or "", ToolOrigin(delta.name or ""))
            kind = "ctc" if origin.is_custom else "fc"
            # The item before is complete, and with it comes its place.
            yield from self._close("completed")
            yield from self._start(call_state(self._item_id(kind), len(self._output), delta, origin))
        assert isinstance(self._open, CallState)
        yield from self._events(self._open.append(delta))

    def _finish(self, reason: str) -> Iterator[SseEvent]:
        self._finish_reason = reason
        if self._open is None and not self._output:
            yield from self._start(MessageState(self._item_id("msg"), 0))
        yield from self._close("incomplete" if reason == "length" else "completed")

    def _start(self, item: OutputItemState) -> Iterator[SseEvent]:
        yield from self._close("completed")
        item.output_index = len(self._output)
        self._open = item
        yield from self._events(item.opening())

    def _close(self, status: wire.ItemStatus) -> Iterator[SseEvent]:
        item, self._open = self._open, None
        if item is not None:
            self._output.append(item.item(status))
            yield from self._events(item.closing(status))

    def _item_id(self, kind: str) -> str:
        number = len(self._output) + (self._open is not None)
        return f"{kind}_{self._answer_id}{number:04x}"

    def _snapshot(self, status: wire.ResponseStatus) -> wire.ResponseBody:
        return msgspec.structs.replace(self.head, status=status, output=list(self._output))

    def _events(self, events: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[SseEvent]:
        for kind, members in events:
            yield self._event(kind, **members)

    def _event(self, kind: str, **members: Any) -> SseEvent:
        return self._sse(wire.ResponseEvent(type=kind, sequence_number=self._next_number(), **members))

    def _next_number(self) -> int:
        self._sequence_number += 1
        return self._sequence_number - 1

    @staticmethod
    def _sse(event: wire.ResponseEvent) -> SseEvent:
        return SseEvent(_encode(event), event.type)
