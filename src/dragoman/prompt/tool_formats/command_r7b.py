"""Command R7B, Command A and Cohere's later models: a list of numbered calls.

<|START_ACTION|>[
    {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Oslo"}}
]<|END_ACTION|>

What the model says before a call is its plan, which the templates write where its thoughts are, and no text.
"""

from collections.abc import Sequence

import msgspec

from dragoman.core.request import Message, ToolOptions
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


def _with_plans(messages: Sequence[Message], _tools: ToolOptions | None) -> list[Message]:
    """Make the text beside calls the reasoning, where there is none."""
    return [
        msgspec.structs.replace(message, content="", reasoning=message.text)
        if message.tool_calls and message.text and not message.reasoning
        else message
        for message in messages
    ]


FORMAT = ToolFormat(markup=MARKUP, adapt=_with_plans)
