"""Command R7B, Command A and Cohere's later models: a list of numbered calls.

<|START_ACTION|>[
    {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Oslo"}}
]<|END_ACTION|>
"""

from dragoman.output.markup import INDEX, ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger="<|START_ACTION|>",
    section_open="<|START_ACTION|>[\n    ",
    head_before_name=f'{{"tool_call_id": "{INDEX}", "tool_name": "',
    head_after_name='", "parameters": ',
    separator=",\n    ",
    section_close="\n]<|END_ACTION|>",
    special_tokens=("<|START_ACTION|>", "<|END_ACTION|>"),
)

FORMAT = ToolFormat(markup=MARKUP)
