"""Hunyuan, Apriel and others: a list of calls between tags.

<tool_calls>[{"name": "get_weather", "arguments": {"city": "Oslo"}}]</tool_calls>
"""

from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger="<tool_calls>",
    section_open="<tool_calls>[",
    separator=", ",
    section_close="]</tool_calls>",
    special_tokens=("<tool_calls>", "</tool_calls>"),
)

FORMAT = ToolFormat(markup=MARKUP)
