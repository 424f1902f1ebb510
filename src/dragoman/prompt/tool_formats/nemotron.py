"""Nemotron Nano v2: a list of calls between tags.

<TOOLCALL>[{"name": "get_weather", "arguments": {"city": "Oslo"}}]</TOOLCALL>
"""

from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger="<TOOLCALL>",
    section_open="<TOOLCALL>[",
    separator=", ",
    section_close="]</TOOLCALL>",
    special_tokens=("<TOOLCALL>", "</TOOLCALL>"),
)

FORMAT = ToolFormat(markup=MARKUP)
