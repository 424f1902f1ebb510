"""How to parse an answer: data that the worker, which renders the prompt, sends to the engine, which parses."""

import functools

import msgspec

from dragoman.output.channel_parser import ChannelParser
from dragoman.output.marked_text_parser import MarkedTextParser, TextMarkers
from dragoman.output.markup import ToolCallMarkup, ToolFormatName
from dragoman.output.parts import OutputParser
from dragoman.output.reasoning_parser import ReasoningParser, ReasoningSpec
from dragoman.output.text_element import TextElement, TextElementParser
from dragoman.output.tool_call_parser import ArgumentTypes, ToolCallMode, ToolCallParser
from dragoman.prompt.tool_formats import FORMATS


class OutputParserSpec(msgspec.Struct, frozen=True):
    """What an answer may have besides text for the client."""

    tool_format: ToolFormatName | None = None
    """The markup of tool calls; None: the request has no tools."""
    reasoning: ReasoningSpec | None = None
    """The reasoning at the beginning; None: there is none."""
    in_channels: bool = False
    """Whether the answer's messages have channels, as gpt-oss's have."""
    text_markers: TextMarkers | None = None
    """What the model may write around its text; None: nothing."""
    text_element: TextElement | None = None
    """The element that text is in; None: it stands by itself."""
    functions: tuple[str, ...] | None = None
    """The functions that may be called, if only their names make a call; None: any name does."""

    @property
    def markup(self) -> ToolCallMarkup | None:
        """The markup that the answer may have, of channels or of calls."""
        name = "harmony" if self.in_channels else self.tool_format
        return None if name is None else FORMATS[name].markup


def build_parser(
    spec: OutputParserSpec, mode: ToolCallMode = "none", strings: ArgumentTypes | None = None
) -> OutputParser | None:
    """Return a parser for one answer; None: all of the answer is text for the client.

    `strings` are the types that the grammar of the answer enforces outside of JSON.
    """
    if spec.in_channels:
        return ReasoningParser(spec.reasoning, ChannelParser()) if spec.reasoning is not None else ChannelParser()
    parser: OutputParser | None = None
    element = spec.text_element
    if spec.tool_format is not None:
        calls = functools.partial(
            ToolCallParser, FORMATS[spec.tool_format].syntax, mode, strings, functions=spec.functions
        )
        parser = calls(prompt_end="" if element is None else element.prompt_end)
    if spec.text_markers is not None:
        parser = MarkedTextParser(spec.text_markers, parser)
    if element is not None:
        in_text = calls() if element.prompt_end and spec.tool_format is not None else None
        parser = TextElementParser(element, parser, in_text)
    return ReasoningParser(spec.reasoning, parser) if spec.reasoning is not None else parser
