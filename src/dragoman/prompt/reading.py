"""How an answer is to be read. Plain data: the worker that writes the prompt tells the engine, which reads."""

import msgspec

from dragoman.prompt.call_reader import CallReader, Certainty
from dragoman.prompt.markup import FormatName
from dragoman.prompt.pieces import AnswerReader
from dragoman.prompt.reasoning import ReasoningReader
from dragoman.prompt.thinking import Thinking
from dragoman.prompt.tool_formats import FORMATS


class Reading(msgspec.Struct, frozen=True):
    """What may be in an answer besides text for the client."""

    tool_format: FormatName | None = None
    """How it writes calls; None: the request has no tools."""
    thinking: Thinking | None = None
    """The thought at its beginning; None: it has none."""


def build_reader(reading: Reading, certainty: Certainty = "none") -> AnswerReader | None:
    """A reader for one answer; None: all of the answer is text for the client."""
    calls = CallReader(FORMATS[reading.tool_format].syntax, certainty) if reading.tool_format is not None else None
    return ReasoningReader(reading.thinking, calls) if reading.thinking is not None else calls
