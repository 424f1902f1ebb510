"""Decoding the bodies of the four completion routes, and rejecting them, without a server."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from dragoman.core.errors import (
    BadRequest,
)
from dragoman.core.models import ServedModel
from dragoman.core.request import SamplingParams
from dragoman.dialects.http.codec import DecodedRequest
from dragoman.dialects.http.query import read_query
from dragoman.dialects.vendors.scale import codec, errors, wire
from tests.support.dialects.decode_contexts import decode_context
from tests.support.dialects.scale_requests import chat, deployment_chat, deployment_text, details, messages, text

DEFAULTS = SamplingParams(temperature=0.2)


def sampling(**fields: object) -> SamplingParams:
    """Return what both routes with the deployment in the path decode from the fields."""
    of_chat, of_text = (route(**fields).requests[0].sampling for route in (deployment_chat, deployment_text))
    assert of_chat == of_text
    return of_chat


def bound(**bindings: object) -> SamplingParams:
    return sampling(model_request_parameters={"bindings": bindings})


def parameters(**fields: object) -> SamplingParams:
    """Return what both routes with the model in the body decode from `model_parameters`."""
    of_chat, of_text = (route(model_parameters=fields).requests[0].sampling for route in (chat, text))
    assert of_chat == of_text
    return of_chat


def refused(**fields: object) -> dict[str, Any]:
    """Return the one violation that both routes with the deployment in the path report."""
    [of_chat], [of_text] = details(deployment_chat, **fields), details(deployment_text, **fields)
    assert of_chat == of_text
    return of_chat


def test_the_defaults_are_the_documented_ones() -> None:
    assert sampling() == parameters() == DEFAULTS
    for route in (deployment_chat, deployment_text, chat, text):
        call = route()
        assert (len(call.requests), call.requests[0].n, call.stream) == (1, 1, False)
        assert call.requests[0].model == "m"


SECTION_3 = [
    "temperature",
    "stop_sequences",
    "max_tokens",
    "top_p",
    "top_k",
    "frequency_penalty",
    "presence_penalty",
    "stream",
    "logprobs",
    "top_logprobs",
    "model_request_parameters",
    "reasoning_effort",
]


def test_null_equals_absent_everywhere() -> None:
    nulls: dict[str, object] = dict.fromkeys(SECTION_3)
    assert deployment_text(**nulls).requests == deployment_text().requests
    history = [{"role": None, "content": "Hi"}]
    with_templates = deployment_chat(**nulls, chat_template=None, chat_template_kwargs=None, chat_history=history)
    assert messages(with_templates) == [("user", "Hi"), ("user", "Hi")]
    assert bound(seed=None, min_p=None, ignore_eos=None) == DEFAULTS
    absent = dict.fromkeys(["instructions", "memory_strategy", "model_parameters", "chat_template", "account_id"])
    assert chat(**absent).requests == chat().requests
    assert text(images=None, model_parameters=None, account_id=None, stream=None).requests == text().requests
    assert parameters(topK=None, topP=None, temperature=None) == DEFAULTS


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("temperature", 0, {"temperature": 0.0}),
        ("temperature", 1, {"temperature": 1.0}),
        ("temperature", 2, {"temperature": 2.0}),
        ("max_tokens", 1, {"max_tokens": 1}),
        ("max_tokens", 40.0, {"max_tokens": 40}),
        ("stop_sequences", [], {}),
        ("stop_sequences", ["a", "b", "c", "d" * 256], {"stop": ("a", "b", "c", "d" * 256)}),
        ("frequency_penalty", -2, {"frequency_penalty": -2.0}),
        ("frequency_penalty", 2, {"frequency_penalty": 2.0}),
        ("presence_penalty", -2.0, {"presence_penalty": -2.0}),
        ("presence_penalty", 2.0, {"presence_penalty": 2.0}),
        ("reasoning_effort", "low", {}),
        ("reasoning_effort", "medium", {}),
        ("reasoning_effort", "high", {}),
    ],
)
def test_values_in_range_reach_the_engine_from_all_routes(field: str, value: object, expected: dict[str, Any]) -> None:
    assert sampling(**{field: value}) == msgspec.structs.replace(DEFAULTS, **expected)
    assert parameters(**{field: value}) == msgspec.structs.replace(DEFAULTS, **expected)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("top_p", 0, {"top_p": 0.0}),
        ("top_p", 1, {"top_p": 1.0}),
        ("top_k", -1, {"top_k": -1}),
        ("top_k", 0, {"top_k": 0}),
        ("top_k", 40.0, {"top_k": 40}),
        ("top_k", 2**80, {"top_k": 2**63 - 1}),
    ],
)
def test_top_p_and_top_k_have_another_spelling_in_model_parameters(
    name: str, value: float, expected: dict[str, Any]
) -> None:
    other = {"top_p": "topP", "top_k": "topK"}[name]
    assert sampling(**{name: value}) == msgspec.structs.replace(DEFAULTS, **expected)
    assert parameters(**{other: value}) == sampling(**{name: value})
    assert sampling(**{other: value}) == parameters(**{name: value}) == DEFAULTS


@pytest.mark.parametrize("temperature", [2.0001, 7, 1e300])
def test_a_temperature_above_the_maximum_is_clamped(temperature: float) -> None:
    assert sampling(temperature=temperature).temperature == 2.0
    assert parameters(temperature=temperature).temperature == 2.0


@pytest.mark.parametrize(
    ("field", "value", "message", "kind"),
    [
        ("temperature", -0.1, "Input should be greater than or equal to 0", "greater_than_equal"),
        ("temperature", "1", "Input should be a valid number", "float_type"),
        ("temperature", True, "Input should be a valid number", "float_type"),
        ("stop_sequences", ["a"] * 5, "List should have at most 4 items, got 5", "too_long"),
        ("stop_sequences", "a", "Input should be a valid array", "list_type"),
        ("max_tokens", 0, "Input should be greater than or equal to 1", "greater_than_equal"),
        ("max_tokens", 1.5, "Input should be a valid integer", "int_type"),
        ("max_tokens", "1", "Input should be a valid integer", "int_type"),
        ("frequency_penalty", -2.1, "Input should be between -2 and 2", "value_error"),
        ("frequency_penalty", 2.1, "Input should be between -2 and 2", "value_error"),
        ("frequency_penalty", "x", "Input should be a valid number", "float_type"),
        ("presence_penalty", -2.1, "Input should be between -2 and 2", "value_error"),
        ("presence_penalty", 2.1, "Input should be between -2 and 2", "value_error"),
        ("presence_penalty", [], "Input should be a valid number", "float_type"),
        ("reasoning_effort", "minimal", "Input should be one of high, low, medium", "enum"),
        ("reasoning_effort", 1, "Input should be a valid string", "string_type"),
    ],
)
def test_values_out_of_range_are_reported_by_all_routes(field: str, value: object, message: str, kind: str) -> None:
    assert refused(**{field: value}) == {"loc": ["body", field], "msg": message, "type": kind}
    for route in (chat, text):
        [detail] = details(route, model_parameters={field: value})
        assert detail == {"loc": ["body", "model_parameters", field], "msg": message, "type": kind}


@pytest.mark.parametrize(
    ("field", "value", "message", "kind"),
    [
        ("top_p", -0.1, "Input should be between 0 and 1", "value_error"),
        ("top_p", 1.1, "Input should be between 0 and 1", "value_error"),
        ("top_p", "x", "Input should be a valid number", "float_type"),
        ("top_k", -2, "Input should be greater than or equal to -1", "greater_than_equal"),
        ("top_k", 40.5, "Input should be a valid integer", "int_type"),
        ("top_k", "40", "Input should be a valid integer", "int_type"),
        ("stream", 1, "Input should be a valid boolean", "bool_type"),
        ("stream", "true", "Input should be a valid boolean", "bool_type"),
        ("logprobs", 1, "Input should be a valid boolean", "bool_type"),
        ("top_logprobs", -1, "Input should be between 0 and 20", "value_error"),
        ("top_logprobs", 21, "Input should be between 0 and 20", "value_error"),
        ("top_logprobs", True, "Input should be a valid integer", "int_type"),
        ("prompt", "", "String should have at least 1 characters, got 0", "too_short"),
        ("prompt", ["Hi"], "Input should be a valid string", "string_type"),
        ("prompt", None, "Field required", "missing"),
        ("model_request_parameters", [], "Input should be a valid object", "dict_type"),
    ],
)
def test_fields_of_the_routes_with_a_deployment_are_checked(field: str, value: object, message: str, kind: str) -> None:
    assert refused(**{field: value}) == {"loc": ["body", field], "msg": message, "type": kind}


@pytest.mark.parametrize("field", ["topP", "topK"])
def test_the_other_spellings_are_checked_equally(field: str) -> None:
    [detail] = details(chat, model_parameters={field: -2})
    assert detail["loc"] == ["body", "model_parameters", field]


def test_an_empty_or_too_long_stop_sequence_is_reported_with_its_path() -> None:
    assert refused(stop_sequences=["a", ""])["loc"] == ["body", "stop_sequences", 1]
    assert refused(stop_sequences=["a" * 257])["loc"] == ["body", "stop_sequences", 0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 0),
        ("seed", 2**64 - 1),
        ("repetition_penalty", 0.01),
        ("repetition_penalty", 3.0),
        ("min_p", 0.0),
        ("min_p", 1.0),
        ("min_tokens", 0),
        ("min_tokens", 7),
        ("ignore_eos", True),
    ],
)
def test_bindings_set_the_engines_parameters(name: str, value: object) -> None:
    assert bound(**{name: value}) == msgspec.structs.replace(DEFAULTS, **{name: value})


def test_other_bindings_are_ignored() -> None:
    assert bound(other="x", temperature=1, more=True) == DEFAULTS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1),
        ("seed", 2**64),
        ("seed", "7"),
        ("repetition_penalty", 0),
        ("repetition_penalty", "1"),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("min_tokens", -1),
        ("min_tokens", 1.5),
        ("ignore_eos", 1),
    ],
)
def test_bindings_out_of_range_are_reported_with_their_path(name: str, value: object) -> None:
    detail = refused(model_request_parameters={"bindings": {name: value}})
    assert detail["loc"] == ["body", "model_request_parameters", "bindings", name]


def test_min_tokens_must_not_be_above_max_tokens() -> None:
    fields: dict[str, Any] = {"max_tokens": 3, "model_request_parameters": {"bindings": {"min_tokens": 4}}}
    assert refused(**fields) == {
        "loc": ["body", "model_request_parameters", "bindings", "min_tokens"],
        "msg": "min_tokens must not be above max_tokens, got 4 and 3",
        "type": "value_error",
    }


def test_model_request_parameters_have_no_other_member() -> None:
    assert refused(model_request_parameters={"bindings": {}, "x": 1}) == {
        "loc": ["body", "model_request_parameters", "x"],
        "msg": "Extra inputs are not permitted",
        "type": "extra_forbidden",
    }
    assert refused(model_request_parameters={})["loc"] == ["body", "model_request_parameters", "bindings"]


def test_unknown_fields_elsewhere_are_ignored() -> None:
    assert deployment_text(model="other", account_id="a", nonsense=[1]).requests == deployment_text().requests
    assert chat(account_id="a", nonsense=1).requests == chat().requests


def test_all_violations_are_listed() -> None:
    body = b'{"temperature": -1, "stop_sequences": ["", 1], "chat_history": [{"role": "tool"}]}'
    with pytest.raises(BadRequest) as caught:
        codec.decode_deployment_chat(body, decode_context(deployment="m"))
    found = json.loads(errors.ScaleErrors().render(caught.value).body)["detail"]
    assert [detail["loc"][1:] for detail in found] == [
        ["temperature"],
        ["stop_sequences", 0],
        ["stop_sequences", 1],
        ["prompt"],
        ["chat_history", 0, "content"],
        ["chat_history", 0, "role"],
    ]


def test_what_types_cannot_express_is_listed_with_them() -> None:
    history = [{"content": [{"image_url": {"url": "x"}}, {}]}]
    found = details(deployment_chat, chat_history=history, top_logprobs=1, chat_template_kwargs={"messages": []})
    assert [detail["loc"][1:] for detail in found] == [
        ["chat_history", 0, "content", 0],
        ["chat_history", 0, "content", 1, "text"],
        ["top_logprobs"],
        ["chat_template_kwargs", "messages"],
    ]


def test_top_logprobs_need_logprobs() -> None:
    for logprobs in (None, False):
        assert refused(top_logprobs=0, logprobs=logprobs) == {
            "loc": ["body", "top_logprobs"],
            "msg": "top_logprobs needs logprobs to be true",
            "type": "value_error",
        }


def test_log_probabilities_are_requested() -> None:
    for route in (deployment_chat, deployment_text):
        assert route().requests[0].logprobs is None
        assert route(logprobs=True).requests[0].logprobs == 0
        assert route(logprobs=True, top_logprobs=5).requests[0].logprobs == 5


@pytest.mark.parametrize(
    ("route", "fields", "place"),
    [
        (chat, {"model": None}, ["model"]),
        (chat, {"model": 1}, ["model"]),
        (chat, {"messages": None}, ["messages"]),
        (chat, {"messages": []}, ["messages"]),
        (chat, {"instructions": 1}, ["instructions"]),
        (chat, {"stream": 1}, ["stream"]),
        (chat, {"model_parameters": []}, ["model_parameters"]),
        (text, {"model": None}, ["model"]),
        (text, {"prompt": ""}, ["prompt"]),
        (text, {"prompt": None}, ["prompt"]),
        (text, {"images": "x"}, ["images"]),
        (text, {"stream": "x"}, ["stream"]),
    ],
)
def test_fields_of_the_routes_with_a_model_are_checked(
    route: Callable[..., DecodedRequest], fields: dict[str, Any], place: list[str]
) -> None:
    [detail] = details(route, **fields)
    assert detail["loc"] == ["body", *place]


def test_a_model_without_a_known_context_length_is_pending() -> None:
    models = [
        ServedModel(id="a", aliases=(), context_length=None),
        ServedModel(id="b", aliases=("c",), context_length=8192),
    ]
    assert [(item.id, item.status) for item in codec.deployment_items(models)] == [("a", "PENDING"), ("b", "READY")]


def test_a_page_is_a_part_of_the_list() -> None:
    models = [ServedModel(id=str(number), aliases=(), context_length=8192) for number in range(5)]
    for number, ids in ((1, ["0", "1"]), (2, ["2", "3"]), (3, ["4"]), (4, [])):
        query = read_query({"page": str(number), "limit": "2"}, wire.ListQuery)
        part = codec.page(codec.model_items(models, query), query)
        assert [item.id for item in part.items] == ids
        assert (part.current_page, part.items_per_page, part.total_item_count) == (number, 2, 5)
