"""Mistral up to v3 of its tokenizer: a list of calls after a special token, possibly with text before it.

    [TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Oslo"}}]

Later ones write `[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}`: see mistral_args.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from dragoman.core.request import Message, ToolOptions
from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger="[TOOL_CALLS]",
    section_open="[TOOL_CALLS] [",
    separator=", ",
    section_close="]",
    special_tokens=("[TOOL_CALLS]",),
)

_ID_LENGTH: Final = 9
ID_PATTERN: Final = rf"[A-Za-z0-9]{{{_ID_LENGTH}}}"
"""Regular expression of the ids of calls."""
_VALID_ID: Final = re.compile(ID_PATTERN)


def with_short_ids(messages: Sequence[Message], _tools: ToolOptions | None) -> list[Message]:
    """Replace ids of calls that are not nine letters or digits, which the templates reject."""
    return [
        msgspec.structs.replace(
            message,
            tool_calls=tuple(msgspec.structs.replace(call, id=_short_id(call.id)) for call in message.tool_calls),
            tool_call_id=None if message.tool_call_id is None else _short_id(message.tool_call_id),
        )
        for message in messages
    ]


def _short_id(call_id: str) -> str:
    if _VALID_ID.fullmatch(call_id):
        return call_id
    return hashlib.sha256(call_id.encode(errors="surrogatepass")).hexdigest()[:_ID_LENGTH]


FORMAT = ToolFormat(markup=MARKUP, adapt=with_short_ids)
