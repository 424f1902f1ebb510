"""The parts of an answer's text: content for the client, reasoning and tool calls."""

from typing import Protocol

import msgspec


class ContentText(msgspec.Struct, frozen=True):
    """Text for the client."""

    text: str


class ReasoningText(msgspec.Struct, frozen=True):
    """Text of a model's reasoning before its answer."""

    text: str


class ToolCallStart(msgspec.Struct, frozen=True):
    """The beginning of a tool call, with its complete name."""

    call: int
    """Index of the call in the answer, from 0."""
    name: str
    id: str | None = None
    """The call's id, if the model writes one."""


class ToolCallArguments(msgspec.Struct, frozen=True):
    """The next part of a call's arguments, which together are one JSON value."""

    call: int
    text: str


class ToolCallEnd(msgspec.Struct, frozen=True):
    """The end of a complete call."""

    call: int


OutputPart = ContentText | ReasoningText | ToolCallStart | ToolCallArguments | ToolCallEnd


class OutputParser(Protocol):
    """Separates an answer's text, which arrives in chunks, into parts. The split into chunks makes no difference."""

    def feed(self, text: str) -> list[OutputPart]:
        """Return the parts that are certain now. Text that may be the beginning of markup is held back."""
        ...

    def finish(self) -> list[OutputPart]:
        """Return the rest at the end of the answer. Held text that did not become markup is content."""
        ...

    @property
    def in_content(self) -> bool:
        """Whether the next text is content unless it is markup."""
        ...

    @property
    def in_reasoning(self) -> bool:
        """Whether the next text is reasoning unless it is the closing marker."""
        ...

    @property
    def held_characters(self) -> int:
        """Number of held characters that become content if they are not markup."""
        ...
