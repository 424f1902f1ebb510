"""Phi-4 mini: a list of calls between special tokens, as its model card describes it.

<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Oslo"}}]<|/tool_call|>
"""

from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger="<|tool_call|>",
    section_open="<|tool_call|>[",
    separator=", ",
    section_close="]<|/tool_call|>",
    special_tokens=("<|tool_call|>", "<|/tool_call|>"),
)

FORMAT = ToolFormat(markup=MARKUP, hints=("<|/tool|>",))
