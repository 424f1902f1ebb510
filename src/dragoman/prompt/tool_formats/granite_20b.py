"""Granite 20B for function calls: a tag before each call.

<function_call> {"name": "get_weather", "arguments": {"city": "Oslo"}}
"""

from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger="<function_call>",
    call_open="<function_call> ",
    separator="\n",
    special_tokens=("<function_call>",),
)

FORMAT = ToolFormat(markup=MARKUP)
