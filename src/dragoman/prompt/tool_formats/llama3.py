"""Llama 3.1 to 3.3: an answer is either text or calls in JSON.

    {"name": "get_weather", "parameters": {"city": "Oslo"}}; {"name": "get_time", "parameters": {}}

A model may put the special token `<|python_tag|>` in front.
"""

from collections import deque
from collections.abc import Sequence

import msgspec

from dragoman.core.request import Message, ToolOptions
from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger='{"name": "',
    only_at_start=True,
    optional_prefix="<|python_tag|>",
    head_after_name='", "parameters": ',
    separator="; ",
    special_tokens=("<|python_tag|>",),
)


def one_call_per_message(messages: Sequence[Message], _tools: ToolOptions | None) -> list[Message]:
    """Give each call a message of its own, followed by its results: the templates reject several calls in one."""
    adapted: list[Message] = []
    rest = deque(messages)
    while rest:
        message = rest.popleft()
        if len(message.tool_calls) < 2:
            adapted.append(message)
            continue
        results = []
        while rest and rest[0].role == "tool":
            results.append(rest.popleft())
        content = message.text
        for call in message.tool_calls:
            adapted.append(msgspec.structs.replace(message, content=content, tool_calls=(call,)))
            adapted += [result for result in results if result.tool_call_id == call.id]
            results = [result for result in results if result.tool_call_id != call.id]
            content = ""
        adapted += results
    return adapted


FORMAT = ToolFormat(
    markup=MARKUP,
    adapt=one_call_per_message,
)
