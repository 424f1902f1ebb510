"""Reading answers whole and in pieces."""

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
    """Everything a reader makes of an answer, with neighbouring text put together."""
    parts = [part for text in texts for part in parser.feed(text)]
    return merged([*parts, *parser.finish()])


def merged(parts: Iterable[OutputPart]) -> list[OutputPart]:
    """The pieces as they are whatever the split was. Refuses pieces without text, which nobody should have to send."""
    result: list[OutputPart] = []
    for part in parts:
        match result[-1:], part:
            case [ContentText(before)], ContentText(text):
                result[-1] = ContentText(before + text)
            case [ReasoningText(before)], ReasoningText(text):
                result[-1] = ReasoningText(before + text)
            case [ToolCallArguments(call, before)], ToolCallArguments(_, text):
                result[-1] = ToolCallArguments(call, before + text)
            case _:
                result.append(part)
        assert not isinstance(part, ContentText | ReasoningText | ToolCallArguments) or part.text
    return result


def tool_call_parts(number: int, name: str, arguments: str) -> list[OutputPart]:
    """A complete call."""
    return [ToolCallStart(number, name), ToolCallArguments(number, arguments), ToolCallEnd(number)]


def splits(text: str) -> Iterator[Sequence[str]]:
    """The text in two and in three pieces, at every place, and in single characters."""
    yield list(text)
    for first in range(len(text) + 1):
        yield text[:first], text[first:]
        for second in range(first, len(text)):
            yield text[:first], text[first:second], text[second:]
