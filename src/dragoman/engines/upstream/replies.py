"""Decode the JSON of upstreams, which need not be sound."""

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

ReplyT = TypeVar("ReplyT")

_PAIR = r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_HALF = r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
_ESCAPES = re.compile(rf"\\\\|{_PAIR}|({_HALF})")


def decode_reply(decode: Callable[[bytes], ReplyT], data: bytes) -> ReplyT:
    """Return what `decode` makes of the JSON. Halves of characters are replaced. Raises MsgspecError.

    A server that sends each token's text by itself may cut a character, in its bytes or between its two escapes.
    """
    try:
        return decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return decode(_with_whole_characters(data))
    except RecursionError:
        raise msgspec.DecodeError("the JSON is nested too deeply") from None


def _with_whole_characters(data: bytes) -> bytes:
    text = data.decode("utf-8", "replace")
    return _ESCAPES.sub(lambda escape: "\\ufffd" if escape[1] else escape[0], text).encode()
