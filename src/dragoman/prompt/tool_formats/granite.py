"""Granite 3: a list of calls after a special token.

<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Oslo"}}]
"""

from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger="<|tool_call|>",
    section_open="<|tool_call|>[",
    separator=", ",
    section_close="]",
    special_tokens=("<|tool_call|>",),
)

FORMAT = ToolFormat(markup=MARKUP, hints=("<|tool_call|>",))
