"""Answers as readers of text separate them: content, reasoning and calls."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from dragoman.output.parts import ContentText, OutputPart, ReasoningText, ToolCallArguments, ToolCallStart


class ReadCall(msgspec.Struct, frozen=True):
    """A call that was read."""

    name: str
    arguments: Any
    """The value that the arguments encode, or their text if they are no JSON."""


class ReadAnswer(msgspec.Struct, frozen=True):
    """An answer that was read, without white space around its texts."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[ReadCall, ...] = ()


def read_answer(content: str, reasoning: str, calls: Sequence[tuple[str, str]]) -> ReadAnswer:
    """Return an answer. Each call has its name and its arguments as text."""
    read = tuple(ReadCall(name, _decoded(arguments)) for name, arguments in calls)
    return ReadAnswer(content.strip(), reasoning.strip(), read)


def answer_of(parts: Sequence[OutputPart]) -> ReadAnswer:
    """Return the answer that a parser of dragoman separated into parts."""
    content = "".join(part.text for part in parts if isinstance(part, ContentText))
    reasoning = "".join(part.text for part in parts if isinstance(part, ReasoningText))
    names = {part.call: part.name for part in parts if isinstance(part, ToolCallStart)}
    arguments = dict.fromkeys(names, "")
    for part in parts:
        if isinstance(part, ToolCallArguments):
            arguments[part.call] += part.text
    return read_answer(content, reasoning, [(name, arguments[call]) for call, name in names.items()])


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
