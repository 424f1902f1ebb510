"""Builds responses from events: the same items, streamed or not."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from dragoman.core.errors import EngineFailed
from dragoman.core.events import (
    CUT_OFF,
    Delta,
    Event,
    Finished,
    PromptTokens,
    ReasoningDelta,
    ToolCallDelta,
    Unenforced,
    Usage,
)
from dragoman.dialects.http.sse import DONE, SseEvent
from dragoman.dialects.responses import wire
from dragoman.dialects.responses.output_items import (
    CallState,
    MessageState,
    OutputItemState,
    ReasoningState,
    call_state,
    sse_event,
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
        self._items: list[OutputItemState] = []
        self._open: OutputItemState | None = None
        """The last item, if it is not complete."""
        self._rendered_openings = 0
        self._rendered_items = 0
        """The number of items whose opening, and of those whose closing, is in the stream."""
        self._finish_reason: str | None = None
        self._final: wire.ResponseBody | None = None

    def note(self, event: Event) -> None:
        """Add the event to the response."""
        if type(event) is Delta:
            logprobs = event.logprobs if self._include_logprobs else ()
            if event.text or logprobs:
                item = self._open
                if not isinstance(item, MessageState):
                    item = MessageState(self._item_id("msg"), len(self._items))
                    self._start(item)
                item.add(event.text, logprobs)
        elif type(event) is Finished:
            self._finish(event.reason)
        elif type(event) is Usage:
            self.finish(event)
        elif type(event) is ReasoningDelta:
            if event.text:
                self._add_reasoning(event.text)
        elif type(event) is ToolCallDelta:
            self._add_call(event)

    def feed(self, event: Event) -> Iterator[SseEvent]:
        """Add the event to the response, and yield the stream's events that are new with it."""
        if type(event) is Unenforced:
            return
        if not self._begun:
            yield from self.begin()
        if type(event) is PromptTokens:
            return
        if not self._in_progress:
            self._in_progress = True
            yield self._event("response.in_progress", response=self._snapshot("in_progress"))
        self.note(event)
        for item in self._items[self._rendered_items :]:
            if item.output_index == self._rendered_openings:
                self._rendered_openings += 1
                yield from self._events(item.opening())
            for piece in item.take_pieces():
                yield item.delta(piece, self._next_number())
            if item.completed is not None:
                self._rendered_items += 1
                yield from self._events(item.closing())
        if type(event) is Usage:
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
            is_complete = self._finish_reason not in CUT_OFF
            cut_off_by = "content_filter" if self._finish_reason == "content_filter" else "max_output_tokens"
            self._final = msgspec.structs.replace(
                self._snapshot("completed" if is_complete else "incomplete"),
                completed_at=self.completed_at if is_complete else None,
                incomplete_details=None if is_complete else wire.IncompleteDetails(cut_off_by),
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
        yield sse_event(msgspec.structs.replace(sent, sequence_number=self._next_number()))
        failed = self.failed(wire.ResponseError(code, message))
        yield self._event("response.failed", response=failed)

    def keep_alive(self) -> SseEvent | None:
        return None

    def build(self) -> bytes:
        """Return the whole response. Raises EngineFailed if the engine stopped without an error."""
        if self._final is None:
            raise EngineFailed("The engine ended its answer without reporting its usage")
        return _encode(self._final)

    def _add_reasoning(self, text: str) -> None:
        item = self._open
        if not isinstance(item, ReasoningState):
            item = ReasoningState(self._item_id("rs"), len(self._items), self._seal)
            self._start(item)
        item.add(text)

    def _add_call(self, delta: ToolCallDelta) -> None:
        item = self._open
        if not (isinstance(item, CallState) and item.call_index == delta.call_index):
            origin = self._origins.get(delta.name or "", ToolOrigin(delta.name or ""))
            kind = "ctc" if origin.is_custom else "fc"
            item = call_state(self._item_id(kind), len(self._items), delta, origin)
            self._start(item)
        item.add(delta.arguments)

    def _finish(self, reason: str) -> None:
        self._finish_reason = reason
        if not self._items:
            self._start(MessageState(self._item_id("msg"), 0))
        self._complete("incomplete" if reason in CUT_OFF else "completed")

    def _start(self, item: OutputItemState) -> None:
        self._complete("completed")
        self._items.append(item)
        self._open = item

    def _complete(self, status: wire.ItemStatus) -> None:
        if self._open is not None:
            self._open.complete(status)
            self._open = None

    def _item_id(self, kind: str) -> str:
        return f"{kind}_{self._answer_id}{len(self._items):04x}"

    def _snapshot(self, status: wire.ResponseStatus) -> wire.ResponseBody:
        output = [item.completed for item in self._items if item.completed is not None]
        return msgspec.structs.replace(self.head, status=status, output=output)

    def _events(self, events: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[SseEvent]:
        for kind, members in events:
            yield self._event(kind, **members)

    def _event(self, kind: str, **members: Any) -> SseEvent:
        return sse_event(wire.ResponseEvent(type=kind, sequence_number=self._next_number(), **members))

    def _next_number(self) -> int:
        self._sequence_number += 1
        return self._sequence_number - 1
