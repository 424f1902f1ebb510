"""How to parse an answer: data that the worker, which renders the prompt, sends to the engine, which parses."""

import msgspec

from dragoman.output.markup import ToolFormatName
from dragoman.output.parts import OutputParser
from dragoman.output.reasoning_parser import ReasoningParser, ReasoningSpec
from dragoman.output.tool_call_parser import ToolCallMode, ToolCallParser
from dragoman.prompt.tool_formats import FORMATS


class OutputParserSpec(msgspec.Struct, frozen=True):
    """What an answer may have besides text for the client."""

    tool_format: ToolFormatName | None = None
    """The markup of tool calls; None: the request has no tools."""
    reasoning: ReasoningSpec | None = None
    """The reasoning at the beginning; None: there is none."""


def build_parser(spec: OutputParserSpec, mode: ToolCallMode = "none") -> OutputParser | None:
    """Return a parser for one answer; None: all of the answer is text for the client."""
    calls = ToolCallParser(FORMATS[spec.tool_format].syntax, mode) if spec.tool_format is not None else None
    return ReasoningParser(spec.reasoning, calls) if spec.reasoning is not None else calls
