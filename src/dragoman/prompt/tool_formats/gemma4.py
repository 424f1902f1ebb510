"""Gemma 4: calls between tokens, with strings between tokens.

<|tool_call>call:get_weather{city:<|"|>Oslo<|"|>,days:3}<tool_call|>
"""

from dragoman.output.markup import ToolCallMarkup
from dragoman.output.value_syntax import gemma
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger="<|tool_call>",
    call_open="<|tool_call>",
    head_before_name="call:",
    head_after_name="{",
    values=gemma('<|"|>', sorts_names=True),
    tail="}",
    call_close="<tool_call|>",
    special_tokens=("<|tool_call>", "<tool_call|>", '<|"|>'),
)

FORMAT = ToolFormat(markup=MARKUP)
