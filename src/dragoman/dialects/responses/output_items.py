"""The items of an answer while they are generated, and the events that each of them adds to the stream."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from msgspec import UNSET

from dragoman.core.events import Delta, ReasoningDelta, ToolCallDelta
from dragoman.dialects.openai.logprobs import chat_token_logprobs
from dragoman.dialects.openai.wire import ChatTokenLogprob
from dragoman.dialects.responses import wire
from dragoman.dialects.responses.json_strings import JsonStringReader
from dragoman.dialects.responses.tools import ToolOrigin


class ItemEvent(NamedTuple):
    """An event that concerns one item, without its sequence number."""

    type: str
    members: dict[str, Any]


class OutputItemState:
    """One item so far."""

    def __init__(self, item_id: str, output_index: int) -> None:
        self.item_id = item_id
        self.output_index = output_index

    def item(self, status: wire.ItemStatus) -> wire.Item:
        """Return the item as far as it is generated."""
        raise NotImplementedError

    def opening(self) -> Iterator[ItemEvent]:
        """Yield the events before its content."""
        yield ItemEvent("response.output_item.added", {"output_index": self.output_index, "item": self._empty()})

    def closing(self, status: wire.ItemStatus) -> Iterator[ItemEvent]:
        """Yield the events after its content."""
        yield ItemEvent("response.output_item.done", {"output_index": self.output_index, "item": self.item(status)})

    def _empty(self) -> wire.Item:
        return self.item("in_progress")

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.item_id, "output_index": self.output_index}


class MessageState(OutputItemState):
    """A message of one text."""

    def __init__(self, item_id: str, output_index: int) -> None:
        super().__init__(item_id, output_index)
        self._texts: list[str] = []
        self._logprobs: list[ChatTokenLogprob] = []

    def item(self, status: wire.ItemStatus) -> wire.MessageItem:
        return wire.MessageItem(id=self.item_id, status=status, content=[self._part()])

    def opening(self) -> Iterator[ItemEvent]:
        yield from super().opening()
        yield ItemEvent("response.content_part.added", {**self._content_place(), "part": wire.OutputTextPart("")})

    def append(self, delta: Delta) -> Iterator[ItemEvent]:
        """Add text."""
        logprobs = chat_token_logprobs(delta.logprobs)
        self._texts.append(delta.text)
        self._logprobs += logprobs
        members = {**self._content_place(), "delta": delta.text, "logprobs": logprobs}
        yield ItemEvent("response.output_text.delta", members)

    def closing(self, status: wire.ItemStatus) -> Iterator[ItemEvent]:
        part, place = self._part(), self._content_place()
        yield ItemEvent("response.output_text.done", {**place, "text": part.text, "logprobs": part.logprobs})
        yield ItemEvent("response.content_part.done", {**place, "part": part})
        yield from super().closing(status)

    def _empty(self) -> wire.MessageItem:
        return wire.MessageItem(id=self.item_id, status="in_progress", content=[])

    def _part(self) -> wire.OutputTextPart:
        return wire.OutputTextPart("".join(self._texts), logprobs=self._logprobs)

    def _content_place(self) -> dict[str, Any]:
        return {**self._place(), "content_index": 0}


class ReasoningState(OutputItemState):
    """The reasoning before a message or a call."""

    def __init__(self, item_id: str, output_index: int, seal: Callable[[str], str] | None) -> None:
        """`seal` encrypts the reasoning for the client to keep; None: the client did not ask for it."""
        super().__init__(item_id, output_index)
        self._texts: list[str] = []
        self._seal = seal

    def item(self, _status: wire.ItemStatus) -> wire.ReasoningItem:
        text = "".join(self._texts)
        return wire.ReasoningItem(
            id=self.item_id,
            content=[wire.ReasoningTextPart(text)],
            encrypted_content=UNSET if self._seal is None else self._seal(text),
        )

    def opening(self) -> Iterator[ItemEvent]:
        yield from super().opening()
        yield ItemEvent("response.content_part.added", {**self._content_place(), "part": wire.ReasoningTextPart("")})

    def append(self, delta: ReasoningDelta) -> Iterator[ItemEvent]:
        """Add reasoning."""
        self._texts.append(delta.text)
        yield ItemEvent("response.reasoning_text.delta", {**self._content_place(), "delta": delta.text})

    def closing(self, status: wire.ItemStatus) -> Iterator[ItemEvent]:
        place, part = self._content_place(), wire.ReasoningTextPart("".join(self._texts))
        yield ItemEvent("response.reasoning_text.done", {**place, "text": part.text})
        yield ItemEvent("response.content_part.done", {**place, "part": part})
        yield from super().closing(status)

    def _empty(self) -> wire.ReasoningItem:
        return wire.ReasoningItem(id=self.item_id, content=[])

    def _content_place(self) -> dict[str, Any]:
        return {**self._place(), "content_index": 0}


class CallState(OutputItemState):
    """A call of a function."""

    def __init__(self, item_id: str, output_index: int, call: ToolCallDelta, origin: ToolOrigin) -> None:
        super().__init__(item_id, output_index)
        self.call_index = call.call_index
        self._call_id = call.id or f"call_{item_id.partition('_')[2]}"
        self._origin = origin
        self._pieces: list[str] = []

    def item(self, status: wire.ItemStatus) -> wire.Item:
        return wire.FunctionCallItem(
            id=self.item_id,
            call_id=self._call_id,
            name=self._origin.name,
            arguments="".join(self._pieces),
            status=status,
            namespace=self._origin.namespace or UNSET,
        )

    def append(self, delta: ToolCallDelta) -> Iterator[ItemEvent]:
        """Add arguments."""
        if delta.arguments:
            self._pieces.append(delta.arguments)
            yield ItemEvent("response.function_call_arguments.delta", {**self._place(), "delta": delta.arguments})

    def closing(self, status: wire.ItemStatus) -> Iterator[ItemEvent]:
        arguments = "".join(self._pieces)
        members = {**self._place(), "name": self._origin.name, "arguments": arguments}
        yield ItemEvent("response.function_call_arguments.done", members)
        yield from super().closing(status)


class CustomCallState(CallState):
    """A call of a custom tool, whose input is a text: the only argument of a function."""

    def __init__(self, item_id: str, output_index: int, call: ToolCallDelta, origin: ToolOrigin) -> None:
        super().__init__(item_id, output_index, call, origin)
        self._reader = JsonStringReader()

    def item(self, status: wire.ItemStatus) -> wire.Item:
        return wire.CustomCallItem(
            id=self.item_id,
            call_id=self._call_id,
            name=self._origin.name,
            input="".join(self._pieces),
            status=status,
            namespace=self._origin.namespace or UNSET,
        )

    def append(self, delta: ToolCallDelta) -> Iterator[ItemEvent]:
        if text := self._reader.feed(delta.arguments):
            self._pieces.append(text)
            yield ItemEvent("response.custom_tool_call_input.delta", {**self._place(), "delta": text})

    def closing(self, status: wire.ItemStatus) -> Iterator[ItemEvent]:
        members = {**self._place(), "input": "".join(self._pieces)}
        yield ItemEvent("response.custom_tool_call_input.done", members)
        yield from OutputItemState.closing(self, status)


def call_state(item_id: str, output_index: int, call: ToolCallDelta, origin: ToolOrigin) -> CallState:
    """Return the state of a new call."""
    kind = CustomCallState if origin.is_custom else CallState
    return kind(item_id, output_index, call, origin)
