"""gpt-oss: every message has a channel, and a call is a message to a function.

    <|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Oslo"}<|call|>

The template writes calls of earlier turns with the recipient in front. It wants one call in a message, and reasoning
beside a call instead of text.
"""

from collections.abc import Sequence

import msgspec

from dragoman.core.request import Message, ToolOptions
from dragoman.output.channel_parser import CHANNEL_TOKENS
from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat
from dragoman.prompt.tool_formats.llama3 import one_call_per_message

MARKUP = ToolCallMarkup(
    trigger=" to=functions.",
    head_before_name=" to=functions.",
    head_after_name="<|channel|>commentary json<|message|>",
    tail="",
    call_close="<|call|>",
    special_tokens=CHANNEL_TOKENS,
    in_channels=True,
)


def _adapt(messages: Sequence[Message], tools: ToolOptions | None) -> list[Message]:
    """Give each call a message of its own, with either text or reasoning: the template writes both as analysis."""
    return [
        msgspec.structs.replace(message, content=message.reasoning or message.text, reasoning=None)
        if message.tool_calls
        else message
        for message in one_call_per_message(messages, tools)
    ]


FORMAT = ToolFormat(markup=MARKUP, adapt=_adapt)
