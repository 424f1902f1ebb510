"""GigaChat 3: the call is a message of its own, after the text.

<|message_sep|>

function call<|role_sep|>
{"name": "get_weather", "arguments": {"city": "Oslo"}}
"""

from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat
from dragoman.prompt.tool_formats.llama3 import one_call_per_message

MARKUP = ToolCallMarkup(
    trigger="<|message_sep|>\n\nfunction call<|role_sep|>",
    call_open="<|message_sep|>\n\nfunction call<|role_sep|>\n",
    special_tokens=("<|message_sep|>", "<|role_sep|>"),
    one_call=True,
)

FORMAT = ToolFormat(markup=MARKUP, adapt=one_call_per_message)
