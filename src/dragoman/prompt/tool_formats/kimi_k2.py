"""Kimi K2: each call has its number after its function's name.

<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"city": "Oslo"}
<|tool_call_end|><|tool_calls_section_end|>
"""

from collections.abc import Sequence

import msgspec

from dragoman.core.request import Message, ToolOptions
from dragoman.output.markup import INDEX, ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger="<|tool_calls_section_begin|>",
    section_open="<|tool_calls_section_begin|>",
    call_open="<|tool_call_begin|>",
    head_before_name="functions.",
    head_after_name=f":{INDEX}<|tool_call_argument_begin|>",
    tail="",
    call_close="<|tool_call_end|>",
    section_close="<|tool_calls_section_end|>",
    special_tokens=(
        "<|tool_calls_section_begin|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        "<|tool_calls_section_end|>",
    ),
)


def _with_numbered_ids(messages: Sequence[Message], _tools: ToolOptions | None) -> list[Message]:
    """Give every call and its result the id that the model would have written: functions.NAME:NUMBER."""
    ids: dict[str | None, str] = {}
    adapted: list[Message] = []
    for message in messages:
        calls = []
        for call in message.tool_calls:
            ids[call.id] = f"functions.{call.name}:{len(ids)}"
            calls.append(msgspec.structs.replace(call, id=ids[call.id]))
        result_id = ids.get(message.tool_call_id, message.tool_call_id)
        adapted.append(msgspec.structs.replace(message, tool_calls=tuple(calls), tool_call_id=result_id))
    return adapted


FORMAT = ToolFormat(markup=MARKUP, adapt=_with_numbered_ids)
