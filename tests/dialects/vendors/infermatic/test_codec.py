"""Decoding the bodies of requests, without a server."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from dragoman.core.errors import (
    BadRequest,
)
from dragoman.core.request import (
    ChatPrompt,
    GenerationRequest,
    Message,
    SamplingParams,
    TextPrompt,
    TokenPrompt,
    Tool,
    ToolCall,
    ToolOptions,
)
from dragoman.dialects.http.codec import DecodedRequest
from dragoman.dialects.vendors.infermatic.codec import decode_chat, decode_text
from dragoman.dialects.vendors.infermatic.errors import InfermaticErrors
from tests.support.dialects.decode_contexts import decode_context

CHAT_BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
TEXT_BODY: dict[str, Any] = {"model": "m", "prompt": "Once"}
CHAT_PROMPT = ChatPrompt(messages=(Message(role="user", content="Hi"),))
INTEGERS = ["max_tokens", "max_completion_tokens", "min_tokens", "top_k", "n", "best_of", "seed", "priority"]
NUMBERS = ["temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"]
BOOLEANS = [
    "stream",
    "ignore_eos",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "spaces_between_special_tokens",
]


def chat(**fields: object) -> DecodedRequest:
    return decode_chat(json.dumps(CHAT_BODY | fields).encode(), decode_context())


def text(**fields: object) -> DecodedRequest:
    return decode_text(json.dumps(TEXT_BODY | fields).encode(), decode_context())


def sampling(**fields: object) -> SamplingParams:
    """Return what both routes decode from the fields, except for their own default of max_tokens."""
    of_chat, of_text = chat(**fields).requests[0].sampling, text(**fields).requests[0].sampling
    assert of_chat == of_text or {"max_tokens", "max_completion_tokens"}.isdisjoint(fields)
    return of_chat


def refusal(route: Callable[..., DecodedRequest], /, **fields: object) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        route(**fields)
    return caught.value


def test_a_chat_request_has_the_defaults_of_openai() -> None:
    [request] = chat().requests
    assert request == GenerationRequest(
        model="m", prompt=CHAT_PROMPT, sampling=SamplingParams(), n=1, echo=False, priority=128
    )
    assert request.sampling.max_tokens is None


def test_a_text_request_has_the_same_defaults_and_16_tokens() -> None:
    [request] = text().requests
    assert request == GenerationRequest(
        model="m", prompt=TextPrompt("Once"), sampling=SamplingParams(max_tokens=16), priority=128
    )


def test_null_equals_absent_in_every_optional_field() -> None:
    common = dict.fromkeys(
        [*INTEGERS, *NUMBERS, *BOOLEANS, "logit_bias", "stop", "stop_token_ids", "stream_options", "user", "logprobs"]
    )
    bound = dict.fromkeys(["structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar"])
    common |= bound
    tools = ["tools", "tool_choice", "parallel_tool_calls"]
    others = ["top_logprobs", "response_format", "reasoning_effort", "chat_template", "chat_template_kwargs"]
    chat_only = dict.fromkeys([*tools, *others])
    assert chat(**common, **chat_only).requests == chat().requests
    assert text(**common, echo=None, suffix=None).requests == text().requests
    assert not chat(**common).stream


def test_the_vendors_own_example_is_accepted_on_both_routes() -> None:
    example = {
        "model": "Mixtral-8x7B-Instruct-v0.1",
        "prompt": "Once",
        "max_tokens": 7000,
        "temperature": 0.7,
        "top_k": 40,
        "repetition_penalty": 1.2,
        "messages": [{"role": "user", "content": "Hi"}],
    }
    expected = SamplingParams(max_tokens=7000, temperature=0.7, top_k=40, repetition_penalty=1.2)
    assert chat(**example).requests[0].sampling == expected
    assert text(**example).requests[0].sampling == expected
    assert chat(**example).requests[0].prompt == CHAT_PROMPT
    assert text(**example).requests[0].prompt == TextPrompt("Once")


def test_what_only_the_other_route_uses_may_have_any_type() -> None:
    assert chat(prompt={"any": "thing"}, suffix=1).requests == chat().requests
    assert text(messages="anything", tools=[1], functions=0).requests == text().requests


def test_unknown_fields_are_ignored() -> None:
    assert chat(unknown={"a": [1]}).requests == chat().requests


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": 40}, SamplingParams(max_tokens=40)),
        ({"max_completion_tokens": 50}, SamplingParams(max_tokens=50)),
        ({"max_tokens": 40, "max_completion_tokens": 50}, SamplingParams(max_tokens=50)),
        ({"max_tokens": 40, "max_completion_tokens": None}, SamplingParams(max_tokens=40)),
        ({"max_tokens": 40, "min_tokens": 40}, SamplingParams(max_tokens=40, min_tokens=40)),
        ({"stop": "END"}, SamplingParams(stop=("END",))),
        ({"stop": ["END", "\n"]}, SamplingParams(stop=("END", "\n"))),
        ({"stop": []}, SamplingParams()),
        ({"stop_token_ids": [2, 3.0]}, SamplingParams(stop_token_ids=(2, 3))),
        ({"include_stop_str_in_output": True}, SamplingParams(include_stop_text=True)),
        ({"ignore_eos": True}, SamplingParams(ignore_eos=True)),
        ({"skip_special_tokens": False}, SamplingParams(skip_special_tokens=False)),
        ({"spaces_between_special_tokens": False}, SamplingParams(spaces_between_special_tokens=False)),
        ({"logit_bias": {"50256": -100, "7": 0.5}}, SamplingParams(logit_bias={50256: -100.0, 7: 0.5})),
        ({"seed": 0}, SamplingParams(seed=0)),
        ({"seed": 2**64 - 1}, SamplingParams(seed=2**64 - 1)),
        ({"seed": -1}, SamplingParams(seed=None)),
        ({"seed": -2}, SamplingParams(seed=2**64 - 2)),
        ({"seed": -(2**63)}, SamplingParams(seed=2**63)),
    ],
)
def test_sampling_fields_reach_the_engine(fields: dict[str, object], expected: SamplingParams) -> None:
    assert chat(**fields).requests[0].sampling == expected


@pytest.mark.parametrize("field", INTEGERS)
def test_an_integer_may_be_written_40_or_40_0_and_nothing_else(field: str) -> None:
    number = 4 if field != "best_of" else 1
    assert chat(**{field: float(number)}).requests == chat(**{field: number}).requests
    for wrong in (40.5, "40", True, [40]):
        assert refusal(chat, **{field: wrong}).parameter == field


@pytest.mark.parametrize("field", NUMBERS)
def test_a_number_may_be_an_integer_and_nothing_else(field: str) -> None:
    assert sampling(**{field: 1}) == sampling(**{field: 1.0})
    for wrong in ("1", True, [1]):
        assert refusal(chat, **{field: wrong}).parameter == field


@pytest.mark.parametrize("field", BOOLEANS)
def test_a_boolean_is_true_or_false_and_nothing_else(field: str) -> None:
    chat(**{field: True})
    chat(**{field: False})
    for wrong in (1, 0, "true", [1]):
        assert refusal(chat, **{field: wrong}).parameter == field


@pytest.mark.parametrize(
    ("field", "accepted", "refused"),
    [
        ("temperature", [0, 2], [-0.01, 2.01]),
        ("top_p", [0, 1], [-0.01, 1.01]),
        ("min_p", [0, 1], [-0.01, 1.01]),
        ("presence_penalty", [-2, 2], [-2.01, 2.01]),
        ("frequency_penalty", [-2, 2], [-2.01, 2.01]),
        ("repetition_penalty", [5e-324, 1.7e308], [0, -1]),
        ("top_k", [-1, 0, 1, 2**40], [-2]),
        ("max_tokens", [1, 2**40], [0, -1]),
        ("max_completion_tokens", [1, 2**40], [0, -1]),
        ("min_tokens", [0, 1], [-1]),
        ("n", [1, 16], [0, 17]),
        ("priority", [0, 128, 255], [-1]),
        ("seed", [-(2**63), 2**64 - 1], [-(2**63) - 1, 2**64]),
        ("stop", ["a", "a" * 256, ["a"] * 64], ["", "a" * 257, ["a"] * 65, ["a", ""]]),
        ("stop_token_ids", [[1] * 64], [[1] * 65]),
        ("logit_bias", [{}, {"1": 100, "2": -100}], [{"1": 100.1}, {"1": -100.1}]),
        ("logit_bias", [{str(token): 0 for token in range(1024)}], [{str(token): 0 for token in range(1025)}]),
        ("logit_bias", [{"007": 1}], [{"": 1}, {"-1": 1}, {"1.0": 1}, {"a": 1}, {"²": 1}, {"١": 1}, {"9" * 30: 1}]),
    ],
)
def test_a_value_is_accepted_to_the_ends_of_its_range_and_rejected_beyond(
    field: str, accepted: list[object], refused: list[object]
) -> None:
    for value in accepted:
        chat(**{field: value})
        text(**{field: value})
    for value in refused:
        assert refusal(chat, **{field: value}).parameter == field
        assert refusal(text, **{field: value}).parameter == field


def test_an_out_of_range_error_names_field_range_and_value() -> None:
    assert refusal(chat, temperature=3).message == "temperature must be between 0 and 2, got 3"
    assert refusal(chat, min_tokens=5, max_tokens=4).message == "min_tokens must not be above max_tokens, got 5 and 4"
    assert refusal(text, min_tokens=17).message == "min_tokens must not be above max_tokens, got 17 and 16"


@pytest.mark.parametrize(("sent", "counted"), [(0, 128), (1, 1), (128, 128), (255, 255), (256, 255), (2000, 255)])
def test_priorities_are_capped_at_255_and_0_means_default(sent: int, counted: int) -> None:
    assert chat(priority=sent).requests[0].priority == counted


def test_a_suffix_is_rejected_by_name() -> None:
    error = refusal(text, suffix="The end.")
    assert (error.parameter, error.message) == ("suffix", "suffix is not supported by this server")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, None), ({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 20}, 20), ({"top_logprobs": 0}, None)],
)
def test_a_chat_asks_for_log_probabilities(fields: dict[str, object], expected: int | None) -> None:
    assert chat(**fields).requests[0].logprobs == expected


@pytest.mark.parametrize("expected", [None, 0, 20])
def test_a_text_asks_for_log_probabilities_with_a_number(expected: int | None) -> None:
    assert [request.logprobs for request in text(logprobs=expected, prompt=["one", "two"]).requests] == [
        expected,
        expected,
    ]


@pytest.mark.parametrize(
    ("route", "fields", "message"),
    [
        (chat, {"top_logprobs": 5}, "top_logprobs needs logprobs to be true"),
        (chat, {"top_logprobs": 21, "logprobs": True}, "top_logprobs must be between 0 and 20, got 21"),
        (text, {"logprobs": 21}, "logprobs must be between 0 and 20, got 21"),
        (text, {"logprobs": True}, "logprobs must be an integer"),
    ],
)
def test_log_probabilities_have_their_range(
    route: Callable[..., DecodedRequest], fields: dict[str, object], message: str
) -> None:
    assert refusal(route, **fields).message == message


@pytest.mark.parametrize("route", [chat, text])
def test_best_of_returns_the_best_candidates(route: Callable[..., DecodedRequest]) -> None:
    assert (route(n=2, best_of=5).requests[0].n, route(n=2, best_of=5).requests[0].best_of) == (2, 5)
    assert route(n=3, best_of=3, stream=True).requests == route(n=3).requests
    for fields, message in (
        ({"n": 3, "best_of": 2}, "best_of must be at least n, got 2 and 3"),
        ({"best_of": 17}, "best_of must be between 1 and 16, got 17"),
        ({"best_of": 2, "stream": True}, "best_of cannot be streamed"),
    ):
        error = refusal(route, **fields)
        assert error.parameter == "best_of"
        assert error.message.startswith(message)


TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
USE = (Tool("now", None, {"type": "object"}),)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"tools": [TOOL]}, {"tools": ToolOptions(USE)}),
        ({"tools": [TOOL], "tool_choice": "none"}, {}),
        ({"tools": [TOOL], "tool_choice": "required"}, {"tools": ToolOptions(USE, "required")}),
        ({"tools": [TOOL], "parallel_tool_calls": False}, {"tools": ToolOptions(USE, parallel=False)}),
        ({"tools": [], "tool_choice": "auto"}, {}),
        ({"reasoning_effort": "minimal"}, {"reasoning_effort": "minimal"}),
        ({"chat_template": "{{ x }}"}, {"template": "{{ x }}"}),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {"template_arguments": {"enable_thinking": False}}),
    ],
)
def test_tools_effort_and_template_reach_the_engine(fields: dict[str, object], expected: dict[str, Any]) -> None:
    assert chat(**fields).requests[0].prompt == msgspec.structs.replace(CHAT_PROMPT, **expected)


@pytest.mark.parametrize(
    ("fields", "parameter", "message"),
    [
        ({"tools": [TOOL, TOOL]}, "tools", "tools[1].function.name: Names of tools must be unique"),
        ({"tools": [{"type": "function"}]}, "tools", "tools[0].function is required"),
        ({"tool_choice": "required"}, "tool_choice", "tool_choice 'required' needs tools"),
        ({"tool_choice": "any"}, "tool_choice", "tool_choice must be one of auto, none, required, got 'any'"),
        ({"reasoning_effort": "all"}, "reasoning_effort", "reasoning_effort must be one of high, low, medium"),
        ({"chat_template": "x" * 65537}, "chat_template", "chat_template must have at most 65536 characters"),
        ({"chat_template": "é" * 65536}, "chat_template", "The template has more than 65536 bytes"),
        (
            {"chat_template_kwargs": {"messages": []}},
            "chat_template_kwargs",
            "chat_template_kwargs.messages: The variable 'messages' is the server's own",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format", "response_format.json_schema is required"),
    ],
)
def test_tools_and_templates_that_cannot_be_used_are_rejected(
    fields: dict[str, object], parameter: str, message: str
) -> None:
    error = refusal(chat, **fields)
    assert error.parameter == parameter
    assert error.message.startswith(message)


def test_an_assistant_message_keeps_reasoning_and_tool_calls() -> None:
    call = {"id": "call_0", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    turns = [
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "Hm"},
        {"role": "tool", "content": "12:00", "tool_call_id": "call_0"},
        {"role": "tool", "content": "from a conversation cut off at its beginning"},
    ]
    assert chat(messages=turns).requests[0].prompt == ChatPrompt(
        messages=(
            Message(role="assistant", content="", tool_calls=(ToolCall("call_0", "now", "{}"),), reasoning="Hm"),
            Message(role="tool", content="12:00", tool_call_id="call_0"),
            Message(role="tool", content="from a conversation cut off at its beginning"),
        )
    )


def test_engine_field_names_are_mapped_to_the_clients() -> None:
    assert chat().field_names == {"prompt": "messages"}
    assert chat(guided_regex="a").field_names == {"prompt": "messages", "response_format": "guided_regex"}
    assert text(structured_outputs={"regex": "a"}).field_names == {"response_format": "structured_outputs"}


def test_an_empty_suffix_is_none() -> None:
    assert text(suffix="").requests == text().requests


def test_several_prompts_are_several_equal_requests() -> None:
    requests = text(prompt=["one", "two"], n=2, max_tokens=3, echo=True).requests
    assert [request.prompt for request in requests] == [TextPrompt("one"), TextPrompt("two")]
    assert {(request.n, request.echo, request.sampling.max_tokens) for request in requests} == {(2, True, 3)}
    assert text(prompt=[[1, 2], [3]]).requests[1].prompt == TokenPrompt((3,))


def test_the_model_in_the_path_overrides_the_body() -> None:
    for decode, body in ((decode_chat, CHAT_BODY), (decode_text, TEXT_BODY)):
        without_model = {key: value for key, value in body.items() if key != "model"}
        assert decode(json.dumps(body).encode(), decode_context(model="a/b")).requests[0].model == "a/b"
        assert decode(json.dumps(without_model).encode(), decode_context(model="a/b")).requests[0].model == "a/b"


@pytest.mark.parametrize(
    ("route", "fields", "parameter"),
    [
        (chat, {"model": None}, "model"),
        (chat, {"model": ""}, "model"),
        (chat, {"messages": None}, "messages"),
        (text, {"model": None}, "model"),
        (text, {"prompt": None}, "prompt"),
    ],
)
def test_a_required_field_that_is_missing_is_named(
    route: Callable[..., DecodedRequest], fields: dict[str, object], parameter: str
) -> None:
    detail = json.loads(InfermaticErrors("/", "prompt").render(refusal(route, **fields)).body)["error"]
    assert (detail["message"], detail["param"]) == (f"Missing required parameter: '{parameter}'", parameter)


def test_fields_of_the_template_reach_the_engine() -> None:
    documents = [{"title": "A", "text": "a"}]
    prompt = chat(documents=documents, add_generation_prompt=False, add_special_tokens=True).requests[0].prompt
    assert prompt == msgspec.structs.replace(
        CHAT_PROMPT, documents=({"title": "A", "text": "a"},), add_generation_prompt=False
    )
    prompt = chat(continue_final_message=True).requests[0].prompt
    assert prompt == msgspec.structs.replace(CHAT_PROMPT, add_generation_prompt=False, continue_final_message=True)
    assert text(add_special_tokens=False).requests[0].prompt == TextPrompt("Once", add_special_tokens=False)


@pytest.mark.parametrize("effort", ["high", "xhigh", "max"])
def test_efforts_above_the_highest_are_the_highest(effort: str) -> None:
    assert chat(reasoning_effort=effort).requests[0].prompt == msgspec.structs.replace(
        CHAT_PROMPT, reasoning_effort="high"
    )


def test_a_message_that_cannot_be_continued_is_refused() -> None:
    both = refusal(chat, continue_final_message=True, add_generation_prompt=True)
    assert both.message.startswith("Cannot set both")
    calls = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    messages = [*CHAT_BODY["messages"], {"role": "assistant", "tool_calls": calls}]
    assert refusal(chat, messages=messages, continue_final_message=True).parameter == "continue_final_message"
