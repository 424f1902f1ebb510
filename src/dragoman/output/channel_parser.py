"""Separates an answer in gpt-oss's harmony format, whose messages have headers, into text, reasoning and tool calls.

An answer is one or several messages: a header, the token <|message|>, and a body up to a token that ends it. The header
names a channel (analysis, commentary, final) and, for a call, its recipient:

    <|channel|>final<|message|>It rains.
    <|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Oslo"}<|call|>

Format: https://cookbook.openai.com/articles/openai-harmony
"""

import re
from typing import Final

from dragoman.output.parts import (
    ContentText,
    OutputPart,
    ReasoningText,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from dragoman.output.scanning import overlap

CHANNEL_TOKENS: Final = (
    "<|start|>",
    "<|channel|>",
    "<|constrain|>",
    "<|message|>",
    "<|end|>",
    "<|call|>",
    "<|return|>",
)

_BODY: Final = "<|message|>"
_ENDS: Final = ("<|end|>", "<|call|>", "<|return|>", "<|start|>")
_HEADER_BEGINNINGS: Final = ("<|start|>", "<|channel|>", "assistant<|channel|>", " to=")
_RECIPIENT: Final = re.compile(r"\bto=(?:functions\.)?([\w.-]+)")
_CHANNEL: Final = re.compile(r"<\|channel\|>\s*(\w+)")
_MAX_HEADER_CHARACTERS: Final = 300


class ChannelParser:
    """Implements parts.OutputParser."""

    def __init__(self) -> None:
        self._buffer = ""
        self._kind = "header"
        """What the next text is: header, content, reasoning or call."""
        self._is_first = True
        """Whether nothing of the answer was parsed. An answer without a header is content."""
        self._calls = 0

    def feed(self, text: str) -> list[OutputPart]:
        self._buffer += text
        parts: list[OutputPart] = []
        while self._parse_header(parts) if self._kind == "header" else self._parse_body(parts):
            pass
        return parts

    def finish(self) -> list[OutputPart]:
        rest, self._buffer = self._buffer, ""
        if self._kind == "header":
            return []  # A header that was cut has no content.
        parts = self._body_parts(rest)
        if self._kind == "call":
            parts.append(ToolCallEnd(self._calls))
        return parts

    @property
    def in_content(self) -> bool:
        return self._kind == "content"

    @property
    def in_reasoning(self) -> bool:
        return False  # Only reasoning before the answer is, which ReasoningParser reads.

    @property
    def held_characters(self) -> int:
        return len(self._buffer) if self._kind == "content" else 0

    def _parse_header(self, parts: list[OutputPart]) -> bool:
        """Parse a header. True if there is more to parse."""
        header, found, rest = self._buffer.partition(_BODY)
        if self._is_first and self._buffer and not _is_header(header, is_whole=bool(found)):
            self._kind, self._is_first = "content", False
            return True
        if not found:
            return False
        self._buffer, self._is_first = rest, False
        recipient, channel = _RECIPIENT.search(header), _CHANNEL.search(header)
        if recipient:
            self._kind = "call"
            parts.append(ToolCallStart(self._calls, recipient[1]))
        else:
            self._kind = "reasoning" if channel and channel[1] == "analysis" else "content"
        return True

    def _parse_body(self, parts: list[OutputPart]) -> bool:
        """Parse a body up to its end. True if there is more to parse."""
        found = [(position, end) for end in _ENDS if (position := self._buffer.find(end)) >= 0]
        if not found:
            held = max(overlap(self._buffer, end) for end in _ENDS)
            length = len(self._buffer) - held
            parts += self._body_parts(self._buffer[:length])
            self._buffer = self._buffer[length:]
            return False
        position, end = min(found)
        parts += self._body_parts(self._buffer[:position])
        if self._kind == "call":
            parts.append(ToolCallEnd(self._calls))
            self._calls += 1
        self._kind, self._buffer = "header", self._buffer[position + len(end) :]
        return True

    def _body_parts(self, text: str) -> list[OutputPart]:
        if not text:
            return []
        match self._kind:
            case "call":
                return [ToolCallArguments(self._calls, text)]
            case "reasoning":
                return [ReasoningText(text)]
        return [ContentText(text)]


def _is_header(text: str, *, is_whole: bool) -> bool:
    """Whether the beginning of an answer is that of a header or, unless it `is_whole`, may become one."""
    beginning_of_body = 0 if is_whole else overlap(text, _BODY)
    if len(text) - beginning_of_body > _MAX_HEADER_CHARACTERS:
        return False
    return any(text.startswith(known) or (not is_whole and known.startswith(text)) for known in _HEADER_BEGINNINGS)
