"""GigaChat 3.1: a special token before the call.

<|function_call|>{"name": "get_weather", "arguments": {"city": "Oslo"}}
"""

from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger="<|function_call|>",
    call_open="<|function_call|>",
    special_tokens=("<|function_call|>",),
)

FORMAT = ToolFormat(markup=MARKUP)
