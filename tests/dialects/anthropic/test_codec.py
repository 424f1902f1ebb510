"""Tools, thinking, formats and sampling as the engine receives them."""

import json
from typing import Any

import pytest

from dragoman.core.errors import BadRequest
from dragoman.core.models import ServedModel
from dragoman.core.request import ChatPrompt, GenerationRequest, JsonSchemaFormat, SamplingParams, Tool, ToolOptions
from dragoman.dialects.anthropic import codec, tools
from tests.support.captured_logs import capture_logs
from tests.support.dialects.decode_contexts import decode_context

FIND = {"name": "find", "input_schema": {"properties": {"q": {}}}}
FOUND = Tool("find", None, {"type": "object", "properties": {"q": {}}})
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
TOOLSET = {"type": "mcp_toolset", "mcp_server_name": "x"}
THINKER = ServedModel(id="m", aliases=(), context_length=9, supports_reasoning=True, tool_format="hermes")
PLAIN = ServedModel(id="m", aliases=(), context_length=9, tool_format="hermes")
UNKNOWN = ServedModel(id="m", aliases=(), context_length=None)


def request(model: ServedModel = THINKER, **fields: Any) -> GenerationRequest:
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}], **fields}
    [decoded] = codec.decode_messages(json.dumps(body).encode(), decode_context([model])).requests
    return decoded


def tool_options(*sent: Any, **choice: Any) -> ToolOptions | None:
    fields: dict[str, Any] = {"tool_choice": choice} if choice else {}
    prompt = request(tools=list(sent), **fields).prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt.tools


def effort(model: ServedModel = THINKER, **fields: Any) -> str | None:
    prompt = request(model, **fields).prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt.reasoning_effort


def test_a_schema_without_type_is_an_objects() -> None:
    assert tool_options(FIND) == ToolOptions((FOUND,))
    assert tool_options({"name": "f", "type": "custom", "input_schema": None}) == ToolOptions((Tool("f"),))


@pytest.mark.parametrize(
    ("choice", "options"),
    [
        ({"type": "auto"}, ToolOptions((FOUND,))),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolOptions((FOUND,), parallel=False)),
        ({"type": "any"}, ToolOptions((FOUND,), "required")),
        ({"type": "tool", "name": "find"}, ToolOptions((FOUND,), "named", "find")),
        ({"type": "none"}, None),
    ],
)
def test_the_choice_of_tools_reaches_the_engine(choice: Any, options: ToolOptions | None) -> None:
    assert tool_options(FIND, **choice) == options


def test_the_vendors_own_tools_are_skipped_with_a_warning() -> None:
    tools._report_skipped.cache_clear()
    with capture_logs() as logs:
        assert tool_options(SEARCH, FIND, TOOLSET, SEARCH) == ToolOptions((FOUND,))
        assert tool_options(SEARCH) is None
    assert [entry["type"] for entry in logs] == ["web_search_20250305", "mcp_toolset"]


@pytest.mark.parametrize(
    ("sent", "choice", "place"),
    [
        ([SEARCH], {"type": "any"}, "no tools to choose from"),
        ([SEARCH, FIND], {"type": "tool", "name": "web_search"}, "web_search"),
        ([FIND], {"type": "tool"}, "tool_choice"),
        ([FIND, FIND], {}, r"tools\[1\]\.name"),
        ([{"input_schema": {}}], {}, r"tools\[0\]\.name"),
        ([{"name": "x" * 129}], {}, r"tools\[0\]\.name"),
        ([{"name": "f", "input_schema": {"a": 10**30}}], {}, r"tools\[0\]\.input_schema"),
        ([{"name": f"f{n}", "input_schema": {"a": "x" * 3000}} for n in range(400)], {}, "bytes together"),
    ],
)
def test_wrong_tools_are_refused_at_their_place(sent: Any, choice: Any, place: str) -> None:
    with pytest.raises(BadRequest, match=place):
        tool_options(*sent, **choice)


def test_names_of_tools_may_have_128_characters() -> None:
    assert tool_options({"name": "x" * 128}) == ToolOptions((Tool("x" * 128),))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"thinking": {"type": "adaptive", "display": "summarized"}}, None),
        ({"thinking": {"type": "between_tools"}}, None),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, "none"),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, "low"),
        ({"output_config": {"effort": "xhigh"}}, "high"),
        ({"output_config": {"effort": "max"}}, "high"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5000}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 31_999}}, "high"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}, "output_config": {"effort": "medium"}}, "medium"),
    ],
)
def test_thinking_and_effort_choose_how_much_the_model_reasons(fields: Any, expected: str | None) -> None:
    assert effort(**fields) == effort(UNKNOWN, **fields) == expected
    assert effort(PLAIN, **fields) is None, "a model that cannot think ignores them"


def test_an_output_format_is_enforced_to_the_letter() -> None:
    sent = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    assert request(output_config=sent).response_format == JsonSchemaFormat({"type": "object"}, strict=True)
    with pytest.raises(BadRequest, match="output_config"):
        request(output_config={"format": {"type": "json_schema", "schema": {"a": 10**30}}})


def test_an_output_format_may_have_its_older_name() -> None:
    schema = {"type": "object"}
    sent = {"type": "json_schema", "schema": schema}
    assert request(output_format=sent).response_format == JsonSchemaFormat(schema, strict=True)
    assert request(output_format=sent, output_config={"effort": "low"}).response_format == JsonSchemaFormat(
        schema, strict=True
    )
    newer = {"format": {"type": "json_schema", "schema": {"type": "array"}}}
    assert request(output_format=sent, output_config=newer).response_format == JsonSchemaFormat(
        {"type": "array"}, strict=True
    )
    with pytest.raises(BadRequest, match="output_format"):
        request(output_format={"type": "json_schema", "schema": {"a": 10**30}})


def test_sampling_parameters_reach_the_engine() -> None:
    sent = request(max_tokens=10**30, temperature=0.5, top_p=0.25, top_k=40, stop_sequences=["\n\nHuman:"])
    assert sent.sampling == SamplingParams(
        max_tokens=2**31 - 1, temperature=0.5, top_p=0.25, top_k=40, stop=("\n\nHuman:",)
    )
    assert request(top_k=0).sampling.top_k == request().sampling.top_k == -1


def test_what_clients_send_and_has_no_effect_here_is_ignored() -> None:
    ignored: dict[str, Any] = {
        "metadata": {"user_id": "u"},
        "service_tier": "auto",
        "cache_control": {"type": "ephemeral", "ttl": "1h"},
        "context_management": {"edits": []},
        "container": None,
        "mcp_servers": [],
        "inference_geo": "us",
        "unheard_of": 1,
    }
    assert request(**ignored) == request()
