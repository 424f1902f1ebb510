"""Parsing of answers as a whole and in chunks."""

from collections.abc import Iterable, Iterator, Sequence

from dragoman.output.parts import (
    ContentText,
    OutputParser,
    OutputPart,
    ReasoningText,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)


def parse(parser: OutputParser, *texts: str) -> list[OutputPart]:
    """Return all parts of an answer, with adjacent text merged."""
    parts = [part for text in texts for part in parser.feed(text)]
    return merged([*parts, *parser.finish()])


def merged(parts: Iterable[OutputPart]) -> list[OutputPart]:
    """Merge adjacent text, so that the parts do not depend on the split, and leave out ids, which few models write.

    Asserts that no part is empty.
    """
    result: list[OutputPart] = []
    for part in parts:
        match result[-1:], part:
            case [ContentText(before)], ContentText(text):
                result[-1] = ContentText(before + text)
            case [ReasoningText(before)], ReasoningText(text):
                result[-1] = ReasoningText(before + text)
            case [ToolCallArguments(call, before)], ToolCallArguments(_, text):
                result[-1] = ToolCallArguments(call, before + text)
            case _, ToolCallStart(call, name):
                result.append(ToolCallStart(call, name))
            case _:
                result.append(part)
        assert not isinstance(part, ContentText | ReasoningText | ToolCallArguments) or part.text
    return result


def tool_call_parts(index: int, name: str, arguments: str) -> list[OutputPart]:
    """Return the parts of a complete call."""
    return [ToolCallStart(index, name), ToolCallArguments(index, arguments), ToolCallEnd(index)]


def splits(text: str) -> Iterator[Sequence[str]]:
    """Split the text into single characters, and into two and three chunks at every position."""
    yield list(text)
    for first in range(len(text) + 1):
        yield text[:first], text[first:]
        for second in range(first, len(text)):
            yield text[:first], text[first:second], text[second:]
