"""FunctionGemma: calls between tokens, with strings between tokens.

    <start_function_call>call:get_weather{city:<escape>Oslo<escape>,days:3}<end_function_call>

The template writes every value of an earlier call as a string. It shows functions only after a system message, and
results with the names of their functions.
"""

from collections.abc import Sequence

from dragoman.core.request import Message, ToolOptions
from dragoman.output.markup import ToolCallMarkup
from dragoman.output.value_syntax import gemma
from dragoman.prompt.tool_formats.format import ToolFormat, calls_as_text, with_function_names

MARKUP = ToolCallMarkup(
    trigger="<start_function_call>",
    call_open="<start_function_call>",
    head_before_name="call:",
    head_after_name="{",
    values=gemma("<escape>"),
    tail="}",
    call_close="<end_function_call>",
    separator="\n",
    special_tokens=("<start_function_call>", "<end_function_call>", "<escape>"),
)

_SYSTEM = "You are a model that can do function calling with the following functions"

_with_written_calls = calls_as_text(MARKUP)


def _adapt(messages: Sequence[Message], tools: ToolOptions | None) -> list[Message]:
    adapted = _with_written_calls(with_function_names(messages), tools)
    if tools is not None and not any(message.role == "system" for message in messages):
        adapted.insert(0, Message(role="system", content=_SYSTEM))
    return adapted


FORMAT = ToolFormat(markup=MARKUP, adapt=_adapt, writes_calls_as_text=True)
