"""Hermes, Qwen 2.5 and 3, and others: each call is a JSON object between tags, with text before and after allowed.

<tool_call>
{"name": "get_weather", "arguments": {"city": "Oslo"}}
</tool_call>
"""

from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger="<tool_call>",
    call_open="<tool_call>\n",
    call_close="\n</tool_call>",
    separator="\n",
    special_tokens=("<tool_call>", "</tool_call>"),
)

FORMAT = ToolFormat(
    markup=MARKUP,
    hints=("<tool_call>",),
    contradictions=("<function=", "<arg_key>", "minimax"),  # what others write between the same tags
)
