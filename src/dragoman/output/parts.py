"""What the text of an answer is made of: words for the client, thoughts, and calls of tools."""

from typing import Protocol

import msgspec


class ContentText(msgspec.Struct, frozen=True):
    """Text for the client."""

    text: str


class ReasoningText(msgspec.Struct, frozen=True):
    """Text that a thinking model thinks before it answers."""

    text: str


class ToolCallStart(msgspec.Struct, frozen=True):
    """A tool is called; its name is known whole."""

    call: int
    """Number of the call within the answer, from 0 on."""
    name: str


class ToolCallArguments(msgspec.Struct, frozen=True):
    """The next piece of a call's arguments, which together are one JSON value."""

    call: int
    text: str


class ToolCallEnd(msgspec.Struct, frozen=True):
    """The call is complete."""

    call: int


OutputPart = ContentText | ReasoningText | ToolCallStart | ToolCallArguments | ToolCallEnd


class OutputParser(Protocol):
    """Takes an answer's text, in whatever pieces it comes, apart. The split into pieces never changes what is read."""

    def feed(self, text: str) -> list[OutputPart]:
        """What is certain now. Text that may be the beginning of markup is held back."""
        ...

    def finish(self) -> list[OutputPart]:
        """The answer is over: what was held back is what it looks like."""
        ...

    @property
    def in_content(self) -> bool:
        """Whether what comes next would be text for the client, if it is no markup."""
        ...

    @property
    def in_reasoning(self) -> bool:
        """Whether what comes next is thought, if it does not end the thinking."""
        ...

    @property
    def held_characters(self) -> int:
        """Characters held back that would be text for the client if they turn out to be no markup."""
        ...
