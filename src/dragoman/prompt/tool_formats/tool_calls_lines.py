"""MiniMax M1: a line for each call between tags.

<tool_calls>
{"name": "get_weather", "arguments": {"city": "Oslo"}}
</tool_calls>
"""

from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger="<tool_calls>",
    section_open="<tool_calls>\n",
    separator="\n",
    section_close="\n</tool_calls>",
    special_tokens=("<tool_calls>", "</tool_calls>"),
)

FORMAT = ToolFormat(markup=MARKUP)
