"""Gemma 3: an answer is either text or a list of Python calls, as in Llama 3.2.

[get_weather(city="Oslo", days=3), get_time()]

The template puts nothing between the arguments of an earlier call. Where it is given calls as text, it requires user
and assistant to alternate, so that results are a user's message, as it writes them itself.
"""

from collections.abc import Sequence

import msgspec

from dragoman.core.request import Message, ToolOptions
from dragoman.prompt.tool_formats import pythonic
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = pythonic.MARKUP


def _adapt(messages: Sequence[Message], tools: ToolOptions | None) -> list[Message]:
    adapted: list[Message] = []
    was_result = False
    for message in pythonic.FORMAT.adapt(messages, tools):
        is_result = message.role == "tool"
        if is_result:
            content = f"<tool_response>\n{message.content.strip()}</tool_response>"
            message = Message(role="user", content=content)
        if was_result and message.role == "user":
            previous = adapted.pop()
            message = msgspec.structs.replace(message, content=f"{previous.content}\n{message.content}")
        adapted.append(message)
        was_result = is_result
    return adapted


FORMAT = ToolFormat(
    markup=MARKUP,
    hints=("respond with a python list of the function calls",),
    adapt=_adapt,
    writes_calls_as_text=True,
)
