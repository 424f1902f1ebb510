"""Between the dialect's JSON and core, without HTTP."""

import json
import re
from typing import Any

import pytest
from starlette.datastructures import Headers

from dragoman.core.errors import (
    BadRequest,
    BodyTooLarge,
    ContextOverflow,
    DragomanError,
    EngineFailed,
    ModelLoading,
    ModelNotFound,
    Overloaded,
    ShuttingDown,
    Unauthenticated,
)
from dragoman.core.events import Delta, Finished, Usage
from dragoman.core.request import (
    ChatPrompt,
    GenerationRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    SamplingParams,
    Tool,
    ToolCall,
    ToolOptions,
)
from dragoman.core.service import ServedModel
from dragoman.dialects.http.codec import DecodedRequest
from dragoman.dialects.vendors.arcee import codec, errors, wire
from tests.support.dialects.decode_contexts import ID, decode_context

HELLO: dict[str, Any] = {"model": "parrot", "messages": [{"role": "user", "content": "Hi"}]}
MODELS = [ServedModel("echo", ("parrot", "acme/echo"), 8192), ServedModel("other", (), None)]
ERRORS = errors.ArceeErrors()

WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
CLOCK = {"type": "function", "function": {"name": "now", "description": "The time", "strict": True}}
USE = (Tool("get_weather", None, {"type": "object"}), Tool("now", "The time", None, True))
NAME_PATTERN = r"String should match pattern '^[A-Za-z0-9_-]{1,64}$(?!\n)'"
INTERNAL = "An internal server error occurred while processing the request"

INTEGERS = ["max_tokens", "max_completion_tokens", "n", "seed", "top_logprobs", "top_k"]
NUMBERS = ["temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"]
NO_INTEGERS: list[object] = [40.5, "40", True, [40], {}]
NO_NUMBERS: list[object] = ["1", True, [1], {}]
NO_BOOLEANS: list[object] = [0, 1, "true", [], {}]
OPTIONAL = [field for field in wire.ChatRequest.__struct_fields__ if field not in ("model", "messages")]


def decode(body: bytes) -> DecodedRequest:
    return codec.decode_chat(body, decode_context(MODELS))


def call(**fields: object) -> DecodedRequest:
    return decode(json.dumps(HELLO | fields).encode())


def request(**fields: object) -> GenerationRequest:
    [only] = call(**fields).requests
    return only


def sampling(**fields: object) -> SamplingParams:
    return request(**fields).sampling


def rendered(error: DragomanError) -> tuple[int, Any]:
    reply = ERRORS.render(error)
    body = json.loads(reply.body)
    assert list(body) == ["detail"]
    return reply.status, body["detail"]


def refusal_of(body: bytes) -> tuple[int, Any]:
    with pytest.raises(DragomanError) as caught:
        decode(body)
    return rendered(caught.value)


def refusal(**fields: object) -> tuple[int, Any]:
    return refusal_of(json.dumps(HELLO | fields).encode())


def entry(message: str, kind: str, *path: str | int) -> dict[str, object]:
    return {"loc": ["body", *path], "msg": message, "type": kind}


def user(content: object, **more: object) -> dict[str, object]:
    return {"role": "user", "content": content} | more


def test_the_defaults_are_openais() -> None:
    assert call().requests == [GenerationRequest("parrot", ChatPrompt((Message("user", "Hi"),)), SamplingParams(), 1)]
    assert not call().stream


@pytest.mark.parametrize("field", OPTIONAL)
def test_null_is_absent(field: str) -> None:
    assert call(**{field: None}).requests == call().requests
    assert not call(**{field: None}).stream


def test_unknown_fields_are_ignored() -> None:
    assert call(user="me", best_of=3, min_tokens=9, __proto__=1).requests == call().requests


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("max_tokens", [1, 7000]),
        ("temperature", [0, 0.5, 2]),
        ("top_p", [0, 0.5, 1]),
        ("top_k", [-1, 0, 40]),
        ("min_p", [0, 0.5, 1]),
        ("repetition_penalty", [5e-324, 1, 1.2, 1e308]),
        ("presence_penalty", [-2, 0, 2]),
        ("frequency_penalty", [-2, 0, 2]),
        ("seed", [0, 7, 2**63 - 1]),
    ],
)
def test_a_parameter_in_its_range_reaches_the_engine(field: str, values: list[float]) -> None:
    assert [getattr(sampling(**{field: value}), field) for value in values] == values


@pytest.mark.parametrize(
    ("field", "value", "message", "kind"),
    [
        ("max_tokens", 0, "Input should be greater than or equal to 1", "greater_than_equal"),
        ("max_completion_tokens", -5, "Input should be greater than or equal to 1", "greater_than_equal"),
        ("temperature", -0.1, "Input should be greater than or equal to 0", "greater_than_equal"),
        ("temperature", 2.1, "Input should be less than or equal to 2", "less_than_equal"),
        ("temperature", 10**400, "Input should be less than or equal to 2", "less_than_equal"),
        ("top_p", -0.1, "Input should be greater than or equal to 0", "greater_than_equal"),
        ("top_p", 1.1, "Input should be less than or equal to 1", "less_than_equal"),
        ("n", 0, "Input should be greater than or equal to 1", "greater_than_equal"),
        ("n", 17, "Input should be less than or equal to 16", "less_than_equal"),
        ("presence_penalty", -2.1, "Input should be greater than or equal to -2", "greater_than_equal"),
        ("presence_penalty", 2.1, "Input should be less than or equal to 2", "less_than_equal"),
        ("frequency_penalty", -2.1, "Input should be greater than or equal to -2", "greater_than_equal"),
        ("frequency_penalty", 2.1, "Input should be less than or equal to 2", "less_than_equal"),
        ("seed", -(2**63) - 1, f"Input should be greater than or equal to {-(2**63)}", "greater_than_equal"),
        ("seed", 2**63, f"Input should be less than or equal to {2**63 - 1}", "less_than_equal"),
        ("top_logprobs", -1, "Input should be greater than or equal to 0", "greater_than_equal"),
        ("top_logprobs", 21, "Input should be less than or equal to 20", "less_than_equal"),
        ("top_k", -2, "Input should be greater than or equal to -1", "greater_than_equal"),
        ("min_p", -0.1, "Input should be greater than or equal to 0", "greater_than_equal"),
        ("min_p", 1.1, "Input should be less than or equal to 1", "less_than_equal"),
        ("repetition_penalty", 0, "Input should be greater than 0", "greater_than"),
        ("repetition_penalty", 10**400, "Input should be less than or equal to 1.79769e+308", "less_than_equal"),
        ("stop", "", "String should have at least 1 characters, got 0", "too_short"),
        ("stop", "x" * 257, "String should have at most 256 characters, got 257", "too_long"),
        ("stop", ["x"] * 65, "List should have at most 64 items, got 65", "too_long"),
        ("tools", [WEATHER] * 129, "List should have at most 128 items, got 129", "too_long"),
        ("tool_choice", "any", "Input should be one of auto, none, required", "enum"),
        ("reasoning_effort", "maximal", "Input should be one of high, low, medium, minimal, none", "enum"),
    ],
)
def test_a_value_out_of_its_range_answers_422_with_its_place(
    field: str, value: object, message: str, kind: str
) -> None:
    assert refusal(**{field: value}) == (422, [entry(message, kind, field)])


@pytest.mark.parametrize("field", INTEGERS)
def test_an_integer_may_be_written_with_a_zero_fraction_and_is_nothing_else(field: str) -> None:
    if field != "top_logprobs":
        assert call(**{field: 4.0}).requests == call(**{field: 4}).requests
    for wrong in NO_INTEGERS:
        assert refusal(**{field: wrong}) == (400, f"Invalid request format: '{field}' must be an integer")


@pytest.mark.parametrize("field", NUMBERS)
def test_a_number_may_be_an_integer_and_is_nothing_else(field: str) -> None:
    assert call(**{field: 1}).requests == call(**{field: 1.0}).requests
    for wrong in NO_NUMBERS:
        assert refusal(**{field: wrong}) == (400, f"Invalid request format: '{field}' must be a number")


@pytest.mark.parametrize("field", ["stream", "parallel_tool_calls", "logprobs"])
def test_a_boolean_is_nothing_but_true_and_false(field: str) -> None:
    assert call(**{field: False}).requests == call().requests
    for wrong in NO_BOOLEANS:
        assert refusal(**{field: wrong}) == (400, f"Invalid request format: '{field}' must be a boolean")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model", 5, "'model' must be a string"),
        ("model", None, "'model' is required"),
        ("messages", None, "'messages' is required"),
        ("messages", "Hi", "'messages' must be an array"),
        ("messages", [], "'messages' must hold at least one message"),
        ("messages", ["Hi"], "'messages[0]' must be an object"),
        ("messages", [user("Hi"), {"content": "Hi"}], "'messages[1].role' is required"),
        ("messages", [user(5)], "'messages[0].content' must be a string or an array"),
        ("messages", [user(None)], "'messages[0].content' is required"),
        ("messages", [{"role": "assistant"}], "'messages[0].content' is required"),
        ("messages", [user([{"text": "Hi"}])], "'messages[0].content[0].type' is required"),
        ("messages", [user([{"type": "text"}])], "'messages[0].content[0].text' is required"),
        ("messages", [user("Hi", name=5)], "'messages[0].name' must be a string"),
        ("messages", [user("Hi", reasoning=5)], "'messages[0].reasoning' must be a string"),
        ("messages", [user("Hi", tool_call_id=5)], "'messages[0].tool_call_id' must be a string"),
        ("messages", [user("Hi", tool_calls={})], "'messages[0].tool_calls' must be an array"),
        ("stop", 5, "'stop' must be a string or an array"),
        ("stop", ["a", 5], "'stop[1]' must be a string"),
        ("stream_options", True, "'stream_options' must be an object"),
        ("stream_options", {"include_usage": 1}, "'stream_options.include_usage' must be a boolean"),
        ("logit_bias", [5], "'logit_bias' must be an object"),
        ("logit_bias", {"5": "1"}, "'logit_bias.5' must be a number"),
        ("tools", {}, "'tools' must be an array"),
        ("tool_choice", 5, "'tool_choice' must be a string or an object"),
        ("response_format", "text", "'response_format' must be an object"),
        ("response_format", {}, "'response_format.type' is required"),
        ("reasoning_effort", 5, "'reasoning_effort' must be a string"),
    ],
)
def test_a_missing_field_and_a_wrong_type_answer_400(field: str, value: object, message: str) -> None:
    assert refusal(**{field: value}) == (400, f"Invalid request format: {message}")


def test_shape_errors_precede_value_errors() -> None:
    assert refusal(temperature=3, top_p="1", n="2") == (400, "Invalid request format: 'top_p' must be a number")


def test_all_values_that_are_wrong_are_listed_in_the_order_of_the_fields() -> None:
    status, detail = refusal(top_p=2, temperature=3, n=0, messages=[{"role": "bot", "content": "Hi"}])
    assert status == 422
    assert [one["loc"][1] for one in detail] == ["messages", "temperature", "top_p", "n"]


@pytest.mark.parametrize("body", [b"", b"{'model': 1}", b'{"model":', b"model=parrot", b"NaN", b'{"n": NaN}', b"\xff"])
def test_invalid_json_returns_400(body: bytes) -> None:
    assert refusal_of(body) == (400, "Request body is not valid JSON")


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"a"'])
def test_json_that_is_not_an_object_returns_400(body: bytes) -> None:
    assert refusal_of(body) == (400, "Invalid request format: the body must be a JSON object")


def test_max_completion_tokens_wins_over_max_tokens() -> None:
    assert sampling(max_completion_tokens=5).max_tokens == 5
    assert sampling(max_completion_tokens=5, max_tokens=9).max_tokens == 5
    assert sampling(max_completion_tokens=None, max_tokens=9).max_tokens == 9


def test_a_limit_above_64_bits_is_accepted() -> None:
    made = sampling(max_tokens=10**30, top_k=1e300)
    assert (made.max_tokens, made.top_k) == (2**63 - 1, 2**63 - 1)


@pytest.mark.parametrize(("sent", "seed"), [(-1, 2**64 - 1), (-(2**63), 2**63), (0, 0)])
def test_a_negative_seed_is_read_as_unsigned(sent: int, seed: int) -> None:
    assert sampling(seed=sent).seed == seed


def test_the_number_of_choices_reaches_the_engine() -> None:
    assert [request(n=n).n for n in (1, 16)] == [1, 16]


@pytest.mark.parametrize(
    ("sent", "stop"),
    [("x", ("x",)), (["x", "y"], ("x", "y")), ([], ()), (["x"] * 64, ("x",) * 64), ("é" * 256, ("é" * 256,))],
)
def test_stop_is_a_text_or_a_list(sent: object, stop: tuple[str, ...]) -> None:
    assert sampling(stop=sent).stop == stop


def test_an_empty_stop_string_is_reported_with_its_path() -> None:
    message = "String should have at least 1 characters, got 0"
    assert refusal(stop=["x", ""]) == (422, [entry(message, "too_short", "stop", 1)])


def test_a_bias_has_token_ids_as_keys() -> None:
    assert sampling(logit_bias={"0": -100, "256": 100, "7": 0.5}).logit_bias == {0: -100, 256: 100, 7: 0.5}
    for key in ("", "a", "-1", "1.5", "²", "1" * 5000):
        assert refusal(logit_bias={key: 1}) == (
            422,
            [entry("Keys should be token ids", "value_error", "logit_bias", key[:40])],
        )


def test_a_bias_is_between_minus_100_and_100() -> None:
    for bias, side in ((-100.5, "greater than or equal to -100"), (101, "less than or equal to 100")):
        status, [detail] = refusal(logit_bias={"7": bias})
        assert (status, detail["loc"]) == (422, ["body", "logit_bias", "7"])
        assert detail["msg"] == f"Input should be {side}"


def test_at_most_1024_tokens_have_a_bias() -> None:
    assert len(sampling(logit_bias={str(token): 1 for token in range(1024)}).logit_bias) == 1024
    message = "Input should have at most 1024 entries, got 1025"
    refused = refusal(logit_bias={str(token): 1 for token in range(1025)})
    assert refused == (422, [entry(message, "value_error", "logit_bias")])


@pytest.mark.parametrize(
    ("fields", "use"),
    [
        ({}, ToolOptions(USE)),
        ({"tool_choice": None}, ToolOptions(USE)),
        ({"tool_choice": "auto"}, ToolOptions(USE)),
        ({"tool_choice": "none"}, None),
        ({"tool_choice": "required"}, ToolOptions(USE, "required")),
        ({"tool_choice": {"type": "function", "function": {"name": "now"}}}, ToolOptions(USE, "named", "now")),
        ({"parallel_tool_calls": False}, ToolOptions(USE, parallel=False)),
    ],
)
def test_tools_reach_the_engine_with_their_choice(fields: dict[str, object], use: ToolOptions | None) -> None:
    prompt = request(tools=[WEATHER, CLOCK], **fields).prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.tools == use


@pytest.mark.parametrize(
    ("fields", "message", "kind", "place"),
    [
        (
            {"tools": [WEATHER, CLOCK, WEATHER]},
            "Names of tools must be unique, 'get_weather' is there twice",
            "value_error",
            ["tools", 2, "function", "name"],
        ),
        ({"tool_choice": "required"}, "tool_choice 'required' needs tools to choose from", "value_error", None),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "now"}}},
            "None of the tools is called 'now'",
            "value_error",
            ["tool_choice", "function", "name"],
        ),
        (
            {"tool_choice": {"type": "tool", "function": {"name": "now"}}},
            "Input should be one of function",
            "enum",
            ["tool_choice", "type"],
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "two words"}}]},
            NAME_PATTERN,
            "string_pattern_mismatch",
            ["tools", 0, "function", "name"],
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a" * 65}}},
            NAME_PATTERN,
            "string_pattern_mismatch",
            ["response_format", "json_schema", "name"],
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"x": [{"minimum": -(2**64)}]}}}]},
            "The integers of a schema must fit into 64 bits",
            "value_error",
            ["tools", 0, "function", "parameters"],
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"maximum": 2**64}}}},
            "The integers of a schema must fit into 64 bits",
            "value_error",
            ["response_format", "json_schema", "schema"],
        ),
        ({"top_logprobs": 5}, "top_logprobs needs logprobs to be true", "value_error", None),
        (
            {"response_format": {"type": "xml"}},
            "Input should be one of json_object, json_schema, text",
            "enum",
            ["response_format", "type"],
        ),
    ],
)
def test_what_does_not_fit_together_answers_422(
    fields: dict[str, Any], message: str, kind: str, place: list[str | int] | None
) -> None:
    assert refusal(**fields) == (422, [entry(message, kind, *(place or fields))])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tools": [5]}, "'tools[0]' must be an object"),
        ({"tools": [{"type": "function"}]}, "'tools[0].function' is required"),
        ({"tools": [{"type": "function", "function": {}}]}, "'tools[0].function.name' is required"),
        ({"tool_choice": {"type": "function"}}, "'tool_choice.function' is required"),
        ({"response_format": {"type": "json_schema"}}, "'response_format.json_schema' is required"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "'response_format.json_schema.name'"),
    ],
)
def test_tools_and_formats_of_another_shape_answer_400(fields: dict[str, object], message: str) -> None:
    status, text = refusal(**fields)
    assert status == 400
    assert message in text


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, JsonObjectFormat()),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, JsonSchemaFormat()),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": None}}, JsonSchemaFormat()),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "array"}, "strict": True}},
            JsonSchemaFormat({"type": "array"}, strict=True),
        ),
    ],
)
def test_a_format_reaches_the_engine(sent: object, expected: object) -> None:
    assert request(response_format=sent).answer_format == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, None), ({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 20}, 20), ({"top_logprobs": 0}, None)],
)
def test_log_probabilities_are_requested(fields: dict[str, object], expected: int | None) -> None:
    assert request(**fields).logprobs == expected


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high"])
def test_the_effort_reaches_the_engine(effort: str) -> None:
    prompt = request(reasoning_effort=effort).prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.effort == effort


def test_tool_calls_and_their_results_reach_the_model() -> None:
    call = {"id": "call_0", "type": "function", "function": {"name": "now", "arguments": '{"zone":"UTC"}'}}
    turns = [
        user("When?"),
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "I must look"},
        {"role": "tool", "content": "12:00", "tool_call_id": "call_0", "name": "now"},
    ]
    assert request(messages=turns).prompt == ChatPrompt(
        (
            Message("user", "When?"),
            Message(
                "assistant", "", tool_calls=(ToolCall("call_0", "now", '{"zone":"UTC"}'),), reasoning="I must look"
            ),
            Message("tool", "12:00", "now", tool_call_id="call_0"),
        )
    )


def test_messages_reach_the_model_as_they_stand() -> None:
    turns: list[dict[str, object]] = [
        {"role": "system", "content": "Be brief"},
        {"role": "developer", "content": ""},
        user([{"type": "text", "text": "H"}, {"type": "text", "text": "i"}], name="Ann"),
        {"role": "assistant", "content": "Hello", "reasoning": "A greeting", "tool_calls": []},
    ]
    assert request(messages=turns).prompt == ChatPrompt(
        (
            Message("system", "Be brief"),
            Message("system", ""),
            Message("user", "Hi", "Ann"),
            Message("assistant", "Hello", reasoning="A greeting"),
        )
    )


@pytest.mark.parametrize(
    ("message", "text", "kind", "place"),
    [
        (
            {"role": "bot", "content": "Hi"},
            "Input should be one of assistant, developer, system, tool, user",
            "enum",
            ["role"],
        ),
        (
            {"role": "tool", "content": "5", "tool_call_id": "call_0"},
            "Input should be the id of a tool call in an earlier assistant message",
            "value_error",
            ["tool_call_id"],
        ),
        (
            {"role": "tool", "content": "5"},
            "Input should be the id of a tool call in an earlier assistant message",
            "value_error",
            ["tool_call_id"],
        ),
        (
            user("Hi", tool_calls=[{"id": "call_0", "function": {"name": "now"}}]),
            "Only an assistant's message has tool calls",
            "value_error",
            ["tool_calls"],
        ),
        (
            user([{"type": "text", "text": "See"}, {"type": "image_url", "image_url": {"url": "http://a/b.png"}}]),
            "This model takes text only, got type 'image_url'",
            "value_error",
            ["content", 1, "type"],
        ),
    ],
)
def test_an_invalid_message_is_reported_with_its_path(
    message: object, text: str, kind: str, place: list[str | int]
) -> None:
    assert refusal(messages=[user("Hi"), message]) == (422, [entry(text, kind, "messages", 1, *place)])


def test_an_unknown_model_is_a_value_error_and_names_match_exactly() -> None:
    for name in ("foo", "Echo", "echo ", ""):
        assert refusal(model=name) == (422, [entry(f"Model '{name}' not found", "value_error", "model")])


@pytest.mark.parametrize("fingerprint", ["fp_0123456789ab", None])
def test_the_fingerprint_is_the_engines_and_null_while_it_is_not_known(fingerprint: str | None) -> None:
    decoded = codec.decode_chat(json.dumps(HELLO).encode(), decode_context([ServedModel("parrot", (), 1, fingerprint)]))
    assert _whole(decoded)["system_fingerprint"] == fingerprint


def _whole(answered_call: DecodedRequest) -> dict[str, Any]:
    for event in (Delta(0, "Hello!", [1]), Finished(0, "stop"), Usage(12, 3, 0)):
        list(answered_call.builder.feed(event))
    document: dict[str, Any] = json.loads(answered_call.builder.build())
    return document


def test_the_answer_has_openais_shape() -> None:
    answer = _whole(call())
    usage = answer.pop("usage")
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (12, 3, 15)
    assert answer.pop("system_fingerprint") is None
    assert isinstance(answer.pop("created"), int)
    assert answer == {
        "id": f"chatcmpl-{ID}",
        "object": "chat.completion",
        "model": "parrot",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello!"}, "finish_reason": "stop"}],
    }


def test_every_model_is_listed_once_in_the_services_shape() -> None:
    echo, other = json.loads(codec.model_list(MODELS))["data"]
    created = echo.pop("created")
    assert isinstance(created, int)
    assert echo == {
        "id": "echo",
        "hugging_face_id": "acme/echo",
        "name": "echo",
        "context_length": 8192,
        "pricing": {"prompt": "0", "completion": "0", "image": "0", "request": "0", "input_cache_read": "0"},
        "input_modalities": ["text"],
        "output_modalities": ["text"],
        "quantization": "",
        "max_output_length": 8192,
        "supported_sampling_parameters": list(codec.SAMPLING_PARAMETERS),
        "supported_features": ["tools", "json_mode", "structured_outputs", "logprobs"],
        "description": "",
    }
    assert (other["hugging_face_id"], other["context_length"], other["max_output_length"]) == ("", 0, 0)
    assert other["created"] == created


def test_a_reasoning_model_lists_the_reasoning_feature() -> None:
    [card] = json.loads(codec.model_list([ServedModel("thinker", (), 1, supports_reasoning=True)]))["data"]
    assert card["supported_features"][-1] == "reasoning"


def test_the_list_of_models_has_no_object_and_begins_with_the_members_always_present() -> None:
    text = codec.model_list(MODELS).decode()
    assert list(json.loads(text)) == ["data"]
    assert re.match(
        r'{"data":\[{"id":.*?,"hugging_face_id":.*?,"name":.*?,"created":.*?,"context_length":.*?,"pricing":', text
    )


def test_the_list_names_just_the_parameters_that_reach_the_engine() -> None:
    fields: dict[str, Any] = {"top_logprobs": {"logprobs": True, "top_logprobs": 2}, "logprobs": {"logprobs": True}}
    value: dict[str, Any] = {"stop": "x", "logit_bias": {"1": 1}, "temperature": 0.5, "top_p": 0.5, "min_p": 0.5}
    changing = [
        field
        for field in OPTIONAL
        if field not in ("tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort")
        and field not in ("stream", "stream_options")
        and call(**fields.get(field, {field: value.get(field, 2)})).requests != call().requests
    ]
    assert sorted(changing) == sorted(codec.SAMPLING_PARAMETERS)


@pytest.mark.parametrize("fault", ["missing", "malformed", "unknown"])
def test_every_key_error_has_the_same_response(fault: Any) -> None:
    reply = ERRORS.render(Unauthenticated(fault).with_key("sk-0123456789abcdef"))
    assert (reply.status, reply.headers) == (401, {"www-authenticate": "Bearer"})
    assert json.loads(reply.body) == {"detail": "Authentication failed due to invalid or missing API key"}


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_bearer_keys_need_no_prefix(scheme: str) -> None:
    assert codec.read_key(Headers({"authorization": f"{scheme} sk-1"})) == "sk-1"


@pytest.mark.parametrize("headers", [{}, {"authorization": ""}, {"authorization": "Bearer "}, {"x-api-key": "sk-1"}])
def test_other_key_headers_are_ignored(headers: dict[str, str]) -> None:
    assert codec.read_key(Headers(headers)) is None


@pytest.mark.parametrize("value", ["sk-1", "Basic sk-1", "Token sk-1"])
def test_another_form_of_the_header_is_refused(value: str) -> None:
    with pytest.raises(Unauthenticated):
        codec.read_key(Headers({"authorization": value}))


def test_a_context_overflow_names_messages() -> None:
    status, [detail] = rendered(ContextOverflow(9000, 8192, "Shorten it."))
    assert (status, detail["loc"], detail["type"]) == (422, ["body", "messages"], "value_error")
    assert detail["msg"].startswith("The prompt has 9000 tokens; the model's context length is 8192 tokens")


@pytest.mark.parametrize(
    ("error", "path"),
    [
        (BadRequest("Too odd", "logit_bias"), ["logit_bias"]),
        (BadRequest("Too odd", "response_format"), ["response_format"]),
        (BadRequest("Too odd", "tools"), ["tools"]),
        (BadRequest("Too odd"), []),
    ],
)
def test_engine_refusals_name_the_field(error: BadRequest, path: list[str]) -> None:
    assert rendered(error) == (422, [entry("Too odd", "value_error", *path)])


def test_a_body_that_is_too_large_answers_413() -> None:
    assert rendered(BodyTooLarge(10485760)) == (413, "Request body is larger than 10485760 bytes")


@pytest.mark.parametrize("kind", [Overloaded, ModelLoading, ShuttingDown])
def test_an_overload_has_retry_after(kind: type[Overloaded]) -> None:
    error = kind("secret", 5)
    assert rendered(error) == (503, "The server is overloaded, retry in 5 seconds")
    assert ERRORS.render(error).headers == {"retry-after": "5"}


def test_an_engine_failure_hides_its_message() -> None:
    assert rendered(EngineFailed("secret")) == (500, INTERNAL)


def test_an_unknown_models_error_is_the_same_from_the_gateway() -> None:
    assert rendered(ModelNotFound("foo")) == (422, [entry("Model 'foo' not found", "value_error", "model")])


@pytest.mark.parametrize(
    ("error", "kind", "code", "message"),
    [
        (EngineFailed("secret"), "server_error", 500, INTERNAL),
        (ModelLoading("secret", 2), "server_error", 503, "The server is overloaded, retry in 2 seconds"),
        (BadRequest("Too odd", "logit_bias"), "invalid_request_error", 422, "Too odd"),
    ],
)
def test_an_error_inside_a_stream_is_one_that_openais_clients_raise_on(
    error: DragomanError, kind: str, code: int, message: str
) -> None:
    frame = ERRORS.render_frame(error)
    assert frame.startswith(b"data: {")
    assert frame.endswith(b"}\n\n")
    assert json.loads(frame.removeprefix(b"data: ")) == {
        "error": {"message": message, "type": kind, "code": code},
        "detail": message,
    }
