"""Requests as Codex sends them, answered in full by two layers of the bundled model.

An engine process with a model is needed: the echo engine refuses grammars, and only a model calls tools.
"""

import re
from typing import Any

import httpx
import pytest

from tests.support.dialects.response_reader import check_response, parse_stream, read_events
from tests.support.server import RunningServer
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

MODEL = "shallow"

PATCH_GRAMMAR = r"""
start: begin_patch hunk end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?
hunk: "*** Delete File: " filename LF
filename: /[a-z]{1,8}\.py/
%import common.LF
"""

CODEX: dict[str, Any] = {
    "model": MODEL,
    "instructions": "You are a coding agent running in a terminal.",
    "input": [
        {
            "type": "additional_tools",
            "role": "developer",
            "tools": [{"type": "function", "name": "update_plan", "parameters": {"type": "object", "properties": {}}}],
        },
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Approval: never"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "List the files."}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAAA-of-another-server"},
        {"type": "function_call", "call_id": "call_1", "name": "shell", "arguments": '{"command": ["ls"]}'},
        {
            "type": "function_call_output",
            "call_id": "call_1",
            "output": [{"type": "input_text", "text": "main.py old.py"}],
        },
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Delete old.py."}]},
    ],
    "tools": [
        {
            "type": "function",
            "name": "shell",
            "description": "Runs a command",
            "strict": False,
            "parameters": {
                "type": "object",
                "properties": {"command": {"type": "array", "items": {"type": "string"}}},
                "required": ["command"],
                "additionalProperties": False,
            },
        },
        {
            "type": "custom",
            "name": "apply_patch",
            "description": "Edits files",
            "format": {"type": "grammar", "syntax": "lark", "definition": PATCH_GRAMMAR},
        },
        {
            "type": "namespace",
            "name": "mcp__docs__",
            "tools": [{"type": "function", "name": "search", "parameters": {"type": "object", "properties": {}}}],
        },
        {"type": "web_search", "external_web_access": False},
        {"type": "local_shell"},
        {"type": "image_generation", "output_format": "png"},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "0199a213-81c0-7800-8aa1-bbab2a035a53",
    "text": {"verbosity": "low"},
    "client_metadata": {"x-codex-installation-id": "1"},
    "temperature": 0,
    "max_output_tokens": 48,
}


@pytest.fixture(scope="module")
def client(shallow_server: RunningServer) -> Any:
    with httpx.Client(base_url=shallow_server.url, timeout=TEST_TIMEOUT_SECONDS) as client:
        yield client


def streamed(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = client.post("/v1/responses", json=CODEX | fields)
    assert response.status_code == 200, response.text
    assert response.headers["x-dragoman-skipped"] == "web_search, local_shell, image_generation, web_search_call"
    return read_events(parse_stream(response.text))


def test_codexs_request_is_answered_alike_streamed_or_not(client: httpx.Client) -> None:
    stream = streamed(client)
    whole = client.post("/v1/responses", json=CODEX | {"stream": False}).json()
    check_response(whole)
    assert stream["status"] in ("completed", "incomplete")
    assert stream["output"]
    assert stream["usage"]["input_tokens"] == whole["usage"]["input_tokens"]

    def contents(response: dict[str, Any]) -> list[Any]:
        return [
            [item.get("content"), item.get("name"), item.get("arguments"), item.get("input")]
            for item in response["output"]
        ]

    assert contents(stream) == contents(whole)


def test_a_patch_can_only_be_written_as_its_grammar_says(client: httpx.Client) -> None:
    response = streamed(client, tool_choice={"type": "custom", "name": "apply_patch"})
    [call] = response["output"]
    assert (call["type"], call["name"], response["status"]) == ("custom_tool_call", "apply_patch", "completed")
    assert re.fullmatch(r"\*\*\* Begin Patch\n\*\*\* Delete File: [a-z]{1,8}\.py\n\*\*\* End Patch\n?", call["input"])


def test_allowed_tools_bind_the_answer_and_share_the_prompt(client: httpx.Client) -> None:
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "shell"}]}
    response = streamed(client, tool_choice=allowed, max_output_tokens=64)
    assert {item["name"] for item in response["output"]} == {"shell"}
    free = streamed(client)
    assert free["usage"]["input_tokens"] == response["usage"]["input_tokens"]
    assert free["usage"]["input_tokens_details"]["cached_tokens"] >= 0.9 * free["usage"]["input_tokens"]


def test_codexs_empty_probe_is_answered(client: httpx.Client) -> None:
    response = client.post("/v1/responses", json={"model": MODEL, "input": [], "max_output_tokens": 1})
    assert response.status_code == 200
    check_response(response.json())
