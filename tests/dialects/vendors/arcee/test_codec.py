"""Between the dialect's JSON and core, without HTTP."""

import json
import re
from typing import Any

import pytest

from dragoman.core.events import Delta, Finished, Usage
from dragoman.core.models import ServedModel
from dragoman.core.request import (
    ChatPrompt,
    GenerationRequest,
    Message,
    SamplingParams,
)
from dragoman.dialects.http.codec import DecodedRequest
from dragoman.dialects.vendors.arcee import codec, wire
from tests.support.dialects.arcee_requests import (
    HELLO,
    MODELS,
    WEATHER,
    call,
    entry,
    refusal,
    refusal_of,
    request,
    user,
)
from tests.support.dialects.decode_contexts import ID, decode_context

INTEGERS = ["max_tokens", "max_completion_tokens", "n", "seed", "top_logprobs", "top_k"]
NUMBERS = ["temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"]
NO_INTEGERS: list[object] = [40.5, "40", True, [40], {}]
NO_NUMBERS: list[object] = ["1", True, [1], {}]
NO_BOOLEANS: list[object] = [0, 1, "true", [], {}]
OPTIONAL = [field for field in wire.ChatRequest.__struct_fields__ if field not in ("model", "messages")]


def sampling(**fields: object) -> SamplingParams:
    return request(**fields).sampling


def test_the_defaults_are_openais() -> None:
    assert call().requests == [
        GenerationRequest(
            model="parrot",
            prompt=ChatPrompt(messages=(Message(role="user", content="Hi"),)),
            sampling=SamplingParams(),
            n=1,
        )
    ]
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
def test_a_value_out_of_its_range_returns_422_with_its_place(
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
def test_a_missing_field_and_a_wrong_type_return_400(field: str, value: object, message: str) -> None:
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


def test_an_unknown_model_is_a_value_error_and_names_match_exactly() -> None:
    for name in ("foo", "Echo", "echo ", ""):
        assert refusal(model=name) == (422, [entry(f"Model '{name}' not found", "value_error", "model")])


@pytest.mark.parametrize("fingerprint", ["fp_0123456789ab", None])
def test_the_fingerprint_is_the_engines_and_absent_while_it_is_not_known(fingerprint: str | None) -> None:
    decoded = codec.decode_chat(
        json.dumps(HELLO).encode(),
        decode_context([ServedModel(id="parrot", aliases=(), context_length=1, fingerprint=fingerprint)]),
    )
    assert _whole(decoded).get("system_fingerprint", "absent") == (fingerprint or "absent")


def _whole(answered_call: DecodedRequest) -> dict[str, Any]:
    for event in (Delta(0, "Hello!", [1]), Finished(0, "stop"), Usage(12, 3, 0)):
        list(answered_call.builder.feed(event))
    document: dict[str, Any] = json.loads(answered_call.builder.build())
    return document


def test_the_answer_has_openais_shape() -> None:
    answer = _whole(call())
    usage = answer.pop("usage")
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (12, 3, 15)
    assert isinstance(answer.pop("created"), int)
    assert answer == {
        "id": f"chatcmpl-{ID}",
        "object": "chat.completion",
        "model": "parrot",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello!", "refusal": None, "annotations": []},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
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
    [card] = json.loads(
        codec.model_list([ServedModel(id="thinker", aliases=(), context_length=1, supports_reasoning=True)])
    )["data"]
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
