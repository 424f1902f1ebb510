"""Requests as Claude Code sends them to servers that are not Anthropic's, composed from its published protocol."""

from collections.abc import Sequence
from typing import Any

HEADERS = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,unheard-of-1",
    "x-claude-code-session-id": "5f0c7a8e-0000-4000-8000-000000000000",
    "x-stainless-retry-count": "0",
}

_CACHED = {"type": "ephemeral"}

_PARAGRAPH = (
    "Use the tools to work on the files of the user, read a file before you change it, answer in few words, name the "
    "lines that you mean, and never guess a path or an address. "
)


def tool(name: str, *required: str) -> dict[str, Any]:
    """Return a tool of Claude Code's."""
    properties = {field: {"type": "string", "description": f"The {field} to use with {name}"} for field in required}
    return {
        "name": name,
        "description": f"{name}: {_PARAGRAPH}",
        "input_schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": properties,
            "required": list(required),
            "additionalProperties": False,
        },
    }


TOOLS: list[dict[str, Any]] = [
    tool("Bash", "command", "description"),
    tool("Read", "file_path"),
    tool("Edit", "file_path", "old_string", "new_string"),
    tool("Grep", "pattern", "path"),
    tool("mcp__a_server_with_a_very_long_name__and_a_tool_whose_name_is_even_longer_than_that", "query"),
    {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
]


def first_turn(text: str) -> list[dict[str, Any]]:
    """Return the messages of a new conversation: reminders and text of the user, then a system message."""
    reminder = {"type": "text", "text": "<system-reminder>\nToday is a Thursday.\n</system-reminder>"}
    asked = {"type": "text", "text": text, "cache_control": _CACHED}
    return [
        {"role": "user", "content": [reminder, asked]},
        {"role": "system", "content": "Available agents: general-purpose, Explore."},
    ]


def request(messages: Sequence[Any], *, attribution: str = "a5145", paragraphs: int = 1, **fields: Any) -> Any:
    """Return a request. `attribution` differs between requests, and `paragraphs` is the length of the system text."""
    header = f"x-anthropic-billing-header: cc_version=2.1.101.e51; cc_entrypoint=cli; cch={attribution};"
    return {
        "model": "echo",
        "max_tokens": 32_000,
        "system": [
            {"type": "text", "text": header},
            {
                "type": "text",
                "text": "You are Claude Code, Anthropic's official CLI for Claude.",
                "cache_control": _CACHED,
            },
            {"type": "text", "text": _PARAGRAPH * paragraphs, "cache_control": _CACHED},
        ],
        "tools": [{**TOOLS[0], "cache_control": _CACHED}, *TOOLS[1:]],
        "messages": list(messages),
        "thinking": {"type": "adaptive", "display": "summarized"},
        "output_config": {"effort": "high"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "metadata": {"user_id": "user_0_account__session_5f0c7a8e"},
        "temperature": 1,
        **fields,
    }
