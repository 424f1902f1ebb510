"""GigaChat 3.1: a special token before the call. An answer has one call; the templates leave further ones out.

<|function_call|>{"name": "get_weather", "arguments": {"city": "Oslo"}}
"""

from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat
from dragoman.prompt.tool_formats.llama3 import one_call_per_message

MARKUP = ToolCallMarkup(
    trigger="<|function_call|>",
    call_open="<|function_call|>",
    special_tokens=("<|function_call|>",),
    one_call=True,
)

FORMAT = ToolFormat(markup=MARKUP, adapt=one_call_per_message)
