"""Families of chat templates that write tool calls in the same way."""

import re

from dragoman.output.markup import ToolFormatName
from dragoman.prompt.tool_formats import generic, hermes, llama3, mistral
from dragoman.prompt.tool_formats.format import ToolFormat

FORMATS: dict[ToolFormatName, ToolFormat] = {
    "hermes": hermes.FORMAT,
    "mistral": mistral.FORMAT,
    "llama3": llama3.FORMAT,
    "generic": generic.FORMAT,
}

_MENTIONS_TOOLS = re.compile(r"\btools\b")


def detect_tool_format(source: str) -> ToolFormatName:
    """Return the first family that matches a template; generic if the template does not mention tools."""
    if not _MENTIONS_TOOLS.search(source):
        return "generic"
    return next(name for name, tool_format in FORMATS.items() if tool_format.matches_template(source))
