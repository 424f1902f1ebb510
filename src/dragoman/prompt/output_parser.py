"""How an answer is to be read. Plain data: the worker that writes the prompt tells the engine, which reads."""

import msgspec

from dragoman.output.markup import ToolFormatName
from dragoman.output.parts import OutputParser
from dragoman.output.reasoning_effort import ReasoningSpec
from dragoman.output.reasoning_parser import ReasoningParser
from dragoman.output.tool_call_parser import ToolCallMode, ToolCallParser
from dragoman.prompt.tool_formats import FORMATS


class OutputParserSpec(msgspec.Struct, frozen=True):
    """What may be in an answer besides text for the client."""

    tool_format: ToolFormatName | None = None
    """How it writes calls; None: the request has no tools."""
    reasoning: ReasoningSpec | None = None
    """The thought at its beginning; None: it has none."""


def build_parser(spec: OutputParserSpec, mode: ToolCallMode = "none") -> OutputParser | None:
    """A reader for one answer; None: all of the answer is text for the client."""
    calls = ToolCallParser(FORMATS[spec.tool_format].syntax, mode) if spec.tool_format is not None else None
    return ReasoningParser(spec.reasoning, calls) if spec.reasoning is not None else calls
