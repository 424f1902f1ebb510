"""Apertus: a list of objects whose only member is the call.

<|tools_prefix|>[{"get_weather": {"city": "Oslo"}}]<|tools_suffix|>
"""

from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger="<|tools_prefix|>",
    section_open="<|tools_prefix|>[",
    head_before_name='{"',
    head_after_name='": ',
    separator=", ",
    section_close="]<|tools_suffix|>",
    special_tokens=("<|tools_prefix|>", "<|tools_suffix|>"),
)

FORMAT = ToolFormat(markup=MARKUP)
