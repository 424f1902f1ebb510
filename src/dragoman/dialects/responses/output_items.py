"""The items of an answer while they are generated, and the events that each of them adds to the stream."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from dragoman.core.events import TokenLogprobs, ToolCallDelta
from dragoman.dialects.http.response_builder import around_text, encode_text
from dragoman.dialects.http.sse import SseEvent
from dragoman.dialects.openai.logprobs import chat_token_logprobs
from dragoman.dialects.responses import wire
from dragoman.dialects.responses.json_strings import JsonStringReader
from dragoman.dialects.responses.tools import ToolOrigin

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


class ItemEvent(NamedTuple):
    """An event that concerns one item, without its sequence number."""

    type: str
    members: dict[str, Any]


class TextDeltas:
    """Encodes the deltas of one item, which differ in their number and their text only."""

    def __init__(self, kind: str, members: dict[str, Any]) -> None:
        def encode(text: str) -> bytes:
            return sse_event(wire.ResponseEvent(type=kind, sequence_number=0, delta=text, **members)).data

        before, self._behind = around_text(encode)
        self._before_number, _, self._before_text = before.partition(b'"sequence_number":0')
        self._kind = kind

    def event(self, number: int, text: str) -> SseEvent:
        """Return the delta of a text."""
        data = b'%b"sequence_number":%d%b%b%b' % (
            self._before_number,
            number,
            self._before_text,
            encode_text(text),
            self._behind,
        )
        return SseEvent(data, self._kind)


def sse_event(event: wire.ResponseEvent) -> SseEvent:
    """Return an event as it is sent."""
    return SseEvent(_encode(event), event.type)


class OutputItemState:
    """One item so far."""

    completed: wire.Item | None = None
    """The whole item, once it is complete."""
    delta_type: str
    """The type of an event about a piece of its content."""

    def __init__(self, item_id: str, output_index: int) -> None:
        self.item_id = item_id
        self.output_index = output_index
        self._pieces: list[str] = []
        self._rendered_pieces = 0
        self._deltas: TextDeltas | None = None

    def complete(self, status: wire.ItemStatus) -> None:
        """End the item."""
        self.completed = self._item(status, "".join(self._pieces))

    def opening(self) -> Iterator[ItemEvent]:
        """Yield the events before its content."""
        yield ItemEvent("response.output_item.added", {"output_index": self.output_index, "item": self._empty()})

    def take_pieces(self) -> range:
        """Return the numbers of the pieces that were added since the last call."""
        first, self._rendered_pieces = self._rendered_pieces, len(self._pieces)
        return range(first, self._rendered_pieces)

    def delta(self, piece: int, sequence_number: int) -> SseEvent:
        """Return the event about a piece."""
        if self._deltas is None:
            self._deltas = TextDeltas(self.delta_type, self._delta_members())
        return self._deltas.event(sequence_number, self._pieces[piece])

    def closing(self) -> Iterator[ItemEvent]:
        """Yield the events after the content of a complete item."""
        yield ItemEvent("response.output_item.done", {"output_index": self.output_index, "item": self.completed})

    def _item(self, status: wire.ItemStatus, text: str) -> wire.Item:
        """Return the item with this content."""
        raise NotImplementedError

    def _delta_members(self) -> dict[str, Any]:
        """Return the members that all deltas share."""
        return self._place()

    def _empty(self) -> wire.Item:
        return self._item("in_progress", "")

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.item_id, "output_index": self.output_index}


class MessageState(OutputItemState):
    """A message of one text."""

    delta_type = "response.output_text.delta"

    def __init__(self, item_id: str, output_index: int) -> None:
        super().__init__(item_id, output_index)
        self._logprobs: list[Sequence[TokenLogprobs]] = []
        """Of each piece."""

    def add(self, text: str, logprobs: Sequence[TokenLogprobs]) -> None:
        """Add text."""
        self._pieces.append(text)
        self._logprobs.append(logprobs)

    def opening(self) -> Iterator[ItemEvent]:
        yield from super().opening()
        yield ItemEvent("response.content_part.added", {**self._content_place(), "part": wire.OutputTextPart("")})

    def closing(self) -> Iterator[ItemEvent]:
        part, place = self._part("".join(self._pieces)), self._content_place()
        yield ItemEvent("response.output_text.done", {**place, "text": part.text, "logprobs": part.logprobs})
        yield ItemEvent("response.content_part.done", {**place, "part": part})
        yield from super().closing()

    def delta(self, piece: int, sequence_number: int) -> SseEvent:
        if not (logprobs := self._logprobs[piece]):
            return super().delta(piece, sequence_number)
        members = {**self._delta_members(), "delta": self._pieces[piece], "logprobs": chat_token_logprobs(logprobs)}
        return sse_event(wire.ResponseEvent(type=self.delta_type, sequence_number=sequence_number, **members))

    def _delta_members(self) -> dict[str, Any]:
        return {**self._content_place(), "logprobs": []}

    def _item(self, status: wire.ItemStatus, text: str) -> wire.MessageItem:
        return wire.MessageItem(id=self.item_id, status=status, content=[self._part(text)])

    def _empty(self) -> wire.MessageItem:
        return wire.MessageItem(id=self.item_id, status="in_progress", content=[])

    def _part(self, text: str) -> wire.OutputTextPart:
        logprobs = chat_token_logprobs(itertools.chain.from_iterable(self._logprobs))
        return wire.OutputTextPart(text, logprobs=logprobs)

    def _content_place(self) -> dict[str, Any]:
        return {**self._place(), "content_index": 0}


class ReasoningState(OutputItemState):
    """The reasoning before a message or a call."""

    delta_type = "response.reasoning_text.delta"

    def __init__(self, item_id: str, output_index: int, seal: Callable[[str], str] | None) -> None:
        """`seal` encrypts the reasoning for the client to keep; None: the client did not ask for it."""
        super().__init__(item_id, output_index)
        self._seal = seal

    def add(self, text: str) -> None:
        """Add reasoning."""
        self._pieces.append(text)

    def opening(self) -> Iterator[ItemEvent]:
        yield from super().opening()
        yield ItemEvent("response.content_part.added", {**self._content_place(), "part": wire.ReasoningTextPart("")})

    def closing(self) -> Iterator[ItemEvent]:
        place, part = self._content_place(), wire.ReasoningTextPart("".join(self._pieces))
        yield ItemEvent("response.reasoning_text.done", {**place, "text": part.text})
        yield ItemEvent("response.content_part.done", {**place, "part": part})
        yield from super().closing()

    def _delta_members(self) -> dict[str, Any]:
        return self._content_place()

    def _item(self, _status: wire.ItemStatus, text: str) -> wire.ReasoningItem:
        return wire.ReasoningItem(
            id=self.item_id,
            content=[wire.ReasoningTextPart(text)],
            encrypted_content=UNSET if self._seal is None else self._seal(text),
        )

    def _empty(self) -> wire.ReasoningItem:
        return wire.ReasoningItem(id=self.item_id, content=[])

    def _content_place(self) -> dict[str, Any]:
        return {**self._place(), "content_index": 0}


class CallState(OutputItemState):
    """A call of a function."""

    delta_type = "response.function_call_arguments.delta"

    def __init__(self, item_id: str, output_index: int, call: ToolCallDelta, origin: ToolOrigin) -> None:
        super().__init__(item_id, output_index)
        self.call_index = call.call_index
        self._call_id = call.id or f"call_{item_id.partition('_')[2]}"
        self._origin = origin

    def add(self, arguments: str) -> None:
        """Add arguments."""
        if arguments:
            self._pieces.append(arguments)

    def closing(self) -> Iterator[ItemEvent]:
        arguments = "".join(self._pieces)
        members = {**self._place(), "name": self._origin.name, "arguments": arguments}
        yield ItemEvent("response.function_call_arguments.done", members)
        yield from super().closing()

    def _item(self, status: wire.ItemStatus, text: str) -> wire.Item:
        return wire.FunctionCallItem(
            id=self.item_id,
            call_id=self._call_id,
            name=self._origin.name,
            arguments=text,
            status=status,
            namespace=self._origin.namespace or UNSET,
        )


class CustomCallState(CallState):
    """A call of a custom tool, whose input is a text: the only argument of a function."""

    delta_type = "response.custom_tool_call_input.delta"

    def __init__(self, item_id: str, output_index: int, call: ToolCallDelta, origin: ToolOrigin) -> None:
        super().__init__(item_id, output_index, call, origin)
        self._reader = JsonStringReader()

    def add(self, arguments: str) -> None:
        super().add(self._reader.feed(arguments))

    def closing(self) -> Iterator[ItemEvent]:
        members = {**self._place(), "input": "".join(self._pieces)}
        yield ItemEvent("response.custom_tool_call_input.done", members)
        yield from OutputItemState.closing(self)

    def _item(self, status: wire.ItemStatus, text: str) -> wire.Item:
        return wire.CustomCallItem(
            id=self.item_id,
            call_id=self._call_id,
            name=self._origin.name,
            input=text,
            status=status,
            namespace=self._origin.namespace or UNSET,
        )


def call_state(item_id: str, output_index: int, call: ToolCallDelta, origin: ToolOrigin) -> CallState:
    """Return the state of a new call."""
    kind = CustomCallState if origin.is_custom else CallState
    return kind(item_id, output_index, call, origin)
