import json
from typing import Any

import pytest

from dragoman.core.adapters import Adapter, AdapterSource, AdapterSpec, RegisteredAdapter
from dragoman.core.errors import (
    AdapterMissing,
    BadRequest,
    BodyTooLarge,
    ContextOverflow,
    DragomanError,
    EngineFailed,
    ModelLoading,
    ModelNameTaken,
    ModelNotFound,
    Overloaded,
    ShuttingDown,
    Unauthenticated,
)
from dragoman.core.events import Delta, Event, Finished, ToolCallDelta, Usage
from dragoman.core.request import ChatPrompt, GenerationRequest, Message, SamplingParams, Tool, ToolCall, ToolOptions
from dragoman.core.service import ServedModel
from dragoman.dialects.http.codec import DecodedRequest
from dragoman.dialects.http.validation import MalformedJson
from dragoman.dialects.vendors.empower import codec, errors, wire
from tests.support.dialects.decode_contexts import ID, decode_context

HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
HI = ChatPrompt((Message("user", "Hi"),))
ADAPTER: dict[str, Any] = {"model_name": "acme/lora", "model_source": "HF_HUB"}
WEATHER: dict[str, Any] = {"type": "function", "function": {"name": "get_weather"}}
TOOLS = (Tool("get_weather"),)
GREETING: list[Event] = [
    Delta(0, "Hel", [1]),
    Delta(1, "", [2]),
    Delta(0, "lo", [3]),
    Finished(1, "length"),
    Finished(0, "stop"),
    Usage(12, 3, 2),
]
GREETING_USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 3,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 2},
}


def chat(**fields: object) -> DecodedRequest:
    return codec.decode_chat(json.dumps(HELLO | fields).encode(), decode_context())


def request(**fields: object) -> GenerationRequest:
    [only] = chat(**fields).requests
    return only


def sampling(**fields: object) -> SamplingParams:
    return request(**fields).sampling


def rendered(error: DragomanError) -> tuple[int, dict[str, Any]]:
    reply = errors.EmpowerErrors().render(error)
    return reply.status, json.loads(reply.body)["error"]


def refusal(body: dict[str, Any], *without: str) -> tuple[str, str, str]:
    """Message, param and code of the answer to a chat request that is refused."""
    with pytest.raises(BadRequest) as caught:
        codec.decode_chat(
            json.dumps({name: body[name] for name in body if name not in without}).encode(), decode_context()
        )
    status, error = rendered(caught.value)
    assert (status, error["type"]) == (400, "invalid_request_error")
    return error["message"], error["param"], error["code"]


def test_the_defaults_are_the_services() -> None:
    assert chat().requests == [GenerationRequest("m", HI, SamplingParams(max_tokens=256), n=1)]
    assert not chat().stream


def test_null_equals_absent_in_every_optional_field() -> None:
    optional = [name for name in wire.ChatRequest.__struct_fields__ if name not in HELLO]
    assert len(optional) == 11
    assert chat(**dict.fromkeys(optional)).requests == chat().requests


@pytest.mark.parametrize("field", ["messages", "model"])
@pytest.mark.parametrize("null", [True, False])
def test_a_required_field_that_is_absent_or_null_is_missing(field: str, null: bool) -> None:
    reported = refusal(HELLO | {field: None}) if null else refusal(HELLO, field)
    assert reported == (f"Missing required parameter: '{field}'", field, "missing_required_parameter")


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [("frequency_penalty", -2, 2), ("presence_penalty", -2, 2), ("temperature", 0, 2), ("top_p", 0, 1)],
)
def test_a_number_has_inclusive_bounds(field: str, low: int, high: int) -> None:
    for inside in (low, high, high / 3):
        assert getattr(sampling(**{field: inside}), field) == inside
    for outside in (low - 0.5, high + 0.5):
        message = f"'{field}' must be between {low} and {high}, got {outside:g}"
        assert refusal(HELLO | {field: outside}) == (message, field, "invalid_value")
    for wrong in ("1", True, [1]):
        assert refusal(HELLO | {field: wrong}) == (f"'{field}' must be a number", field, "invalid_type")


def test_the_message_for_a_value_out_of_range_is_the_documented_one() -> None:
    message = "'temperature' must be between 0 and 2, got 3"
    assert refusal(HELLO | {"temperature": 3}) == (message, "temperature", "invalid_value")


def test_max_tokens_is_at_least_1() -> None:
    assert [sampling(max_tokens=sent).max_tokens for sent in (1, 7000, 40.0)] == [1, 7000, 40]
    message = "'max_tokens' must be at least 1, got 0"
    assert refusal(HELLO | {"max_tokens": 0}) == (message, "max_tokens", "invalid_value")


@pytest.mark.parametrize("sent", [2**31, 2**64, 2**70])
def test_max_tokens_has_no_upper_end_but_reaches_an_engine_as_a_number_it_can_hold(sent: int) -> None:
    assert sampling(max_tokens=sent).max_tokens == 2**31 - 1


def test_n_is_between_1_and_16() -> None:
    assert [request(n=sent).n for sent in (1, 16, 2.0)] == [1, 16, 2]
    for sent in (0, 17):
        assert refusal(HELLO | {"n": sent}) == (f"'n' must be between 1 and 16, got {sent}", "n", "invalid_value")


@pytest.mark.parametrize("field", ["n", "max_tokens"])
@pytest.mark.parametrize("wrong", ["1", 1.5, True])
def test_an_integer_is_nothing_else(field: str, wrong: object) -> None:
    assert refusal(HELLO | {field: wrong}) == (f"'{field}' must be an integer", field, "invalid_type")


@pytest.mark.parametrize("field", ["ignore_eos", "stream"])
@pytest.mark.parametrize("wrong", ["true", 1, 0])
def test_a_boolean_is_nothing_else(field: str, wrong: object) -> None:
    assert refusal(HELLO | {field: wrong}) == (f"'{field}' must be a boolean", field, "invalid_type")


def test_booleans_are_taken() -> None:
    assert chat(stream=True).stream
    assert sampling(ignore_eos=True).ignore_eos


def test_a_model_is_a_string() -> None:
    assert refusal(HELLO | {"model": 5}) == ("'model' must be a string", "model", "invalid_type")


def test_undocumented_fields_are_ignored_with_any_value() -> None:
    ignored = {"stop": 5, "seed": "x", "logprobs": 7, "top_k": -9, "repetition_penalty": 0, "response_format": 1}
    assert chat(**ignored).requests == chat().requests


def test_the_turns_of_a_conversation_reach_the_model_as_they_stand() -> None:
    turns = [
        {"role": "developer", "content": "Be brief"},
        {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}], "name": "Ann"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": ""},
    ]
    assert request(messages=turns).prompt == ChatPrompt(
        (
            Message("system", "Be brief"),
            Message("user", "Hi", "Ann"),
            Message("assistant", "Hello"),
            Message("user", ""),
        )
    )


def test_a_string_is_one_user_message() -> None:
    assert chat(messages="Hi").requests == chat().requests


def test_each_string_of_an_array_is_a_prompt_of_its_own() -> None:
    assert [sent.prompt for sent in chat(messages=["Hi"]).requests] == [HI]
    texts = [f"{number}" for number in range(16)]
    requests = chat(messages=texts, n=3, temperature=0).requests
    assert [sent.prompt for sent in requests] == [ChatPrompt((Message("user", text),)) for text in texts]
    assert all((sent.n, sent.sampling.temperature) == (3, 0) for sent in requests)


@pytest.mark.parametrize(
    ("wrong", "message", "code"),
    [
        ([], "'messages' must have at least 1 items, got 0", "invalid_value"),
        (["x"] * 17, "'messages' must have at most 16 strings, got 17", "invalid_value"),
        (5, "'messages' must be a string or an array", "invalid_type"),
        ({}, "'messages' must be a string or an array", "invalid_type"),
        ([5], "'messages[0]' must be a string or an object", "invalid_type"),
        (["x", 5], "'messages[1]' must be a string or an object", "invalid_type"),
        (
            ["x", {"role": "user", "content": "y"}],
            "'messages' must be an array of strings or an array of objects",
            "invalid_type",
        ),
        (
            [{"role": "user", "content": "y"}, "x"],
            "'messages' must be an array of strings or an array of objects",
            "invalid_type",
        ),
        ([{"content": "x"}], "Missing required parameter: 'messages[0].role'", "missing_required_parameter"),
        ([{"role": "user", "content": 5}], "'messages[0].content' must be a string or an array", "invalid_type"),
        ([{"role": "user"}], "Missing required parameter: 'messages[0].content'", "missing_required_parameter"),
        (
            [{"role": "user", "content": None}],
            "Missing required parameter: 'messages[0].content'",
            "missing_required_parameter",
        ),
        (
            [{"role": "bot", "content": "x"}],
            "'messages[0].role' must be one of assistant, developer, system, tool, user, got 'bot'",
            "invalid_value",
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://host/a.png"}}]}],
            "'messages[0].content[0].type': This model takes text only, got type 'image_url'",
            "invalid_value",
        ),
        (
            [{"role": "user", "content": "x", "tool_calls": [{"id": "call_0", **WEATHER}]}],
            "'messages[0].tool_calls': Only an assistant's message has tool calls",
            "invalid_value",
        ),
    ],
)
def test_messages_of_another_shape_are_refused(wrong: object, message: str, code: str) -> None:
    refused = refusal(HELLO | {"messages": wrong})
    assert refused[1:] == ("messages", code)
    assert message in refused[0]


def test_only_the_first_violation_is_reported() -> None:
    wrong: dict[str, Any] = {
        "stream_options": 5,
        "tool_choice": "some",
        "tools": 5,
        "top_p": 2,
        "temperature": "x",
        "stream": 1,
        "n": 0,
        "max_tokens": 0,
        "ignore_eos": 5,
        "presence_penalty": 3,
        "frequency_penalty": 3,
        "model": 5,
        "messages": ["x", {"role": "user", "content": "y"}],
    }
    reported = []
    while wrong:
        reported.append(refusal(wrong | {name: HELLO[name] for name in HELLO if name not in wrong})[1])
        del wrong[reported[-1]]
    assert reported == list(wire.ChatRequest.__struct_fields__)


@pytest.mark.parametrize("choice", ["none", "auto"])
def test_without_tools_the_choice_may_be_none_or_auto(choice: str) -> None:
    assert chat(tools=[], tool_choice=choice).requests == chat().requests


@pytest.mark.parametrize(
    ("choice", "use"),
    [
        (None, ToolOptions(TOOLS)),
        ("auto", ToolOptions(TOOLS)),
        ("none", None),
        ("any", ToolOptions(TOOLS, "required")),
        ("required", ToolOptions(TOOLS, "required")),
        ({"type": "function", "function": {"name": "get_weather"}}, ToolOptions(TOOLS, "named", "get_weather")),
    ],
)
def test_tools_reach_the_engine_and_any_is_required(choice: object, use: ToolOptions | None) -> None:
    assert request(tools=[WEATHER], tool_choice=choice).prompt == ChatPrompt(HI.messages, use)


def test_every_prompt_has_the_same_tools() -> None:
    requests = chat(messages=["one", "two"], tools=[WEATHER]).requests
    assert [sent.prompt for sent in requests] == [
        ChatPrompt((Message("user", text),), ToolOptions(TOOLS)) for text in ("one", "two")
    ]


def test_tool_calls_and_their_results_reach_the_model() -> None:
    call = {"id": "call_0", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    turns = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "Rain", "tool_call_id": "call_0"}]
    assert request(messages=turns).prompt == ChatPrompt(
        (
            Message("assistant", "", tool_calls=(ToolCall("call_0", "get_weather", "{}"),)),
            Message("tool", "Rain", tool_call_id="call_0"),
        )
    )


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({"tool_choice": "any"}, "tool_choice 'required' needs tools to choose from", "tool_choice"),
        (
            {"tools": [WEATHER] * 2},
            "'tools[1].function.name': Names of tools must be unique, 'get_weather' is there twice",
            "tools",
        ),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "now"}}},
            "'tool_choice.function.name': None of the tools is called 'now'",
            "tool_choice",
        ),
    ],
)
def test_tools_that_do_not_fit_together_are_refused(fields: dict[str, Any], message: str, param: str) -> None:
    assert refusal(HELLO | fields) == (message, param, "invalid_value")


def test_a_tool_call_has_its_name_in_one_chunk_and_its_arguments_in_those_that_follow() -> None:
    call = chat(stream=True, tools=[WEATHER])
    events: list[Event] = [
        ToolCallDelta(index=0, call_index=0, arguments='{"city":', token_ids=[1], id="call_0", name="get_weather"),
        ToolCallDelta(0, 0, '"Oslo"}', [2]),
        Finished(0, "tool_calls"),
        Usage(1, 3, 0),
    ]
    chunks = [json.loads(document) for event in events for document in call.builder.feed(event)]
    function = {"name": "get_weather", "arguments": ""}
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"tool_calls": [{"index": 0, "id": "call_0", "type": "function", "function": function}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"Oslo"}'}}]},
        {},
    ]
    [choice] = json.loads(call.builder.build())["choices"]
    function = {"name": "get_weather", "arguments": '{"city":"Oslo"}'}
    assert choice == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_0", "type": "function", "function": function}],
        },
        "finish_reason": "tool_calls",
        "logprobs": None,
    }


@pytest.mark.parametrize(
    ("field", "wrong", "message", "code"),
    [
        ("tools", {}, "'tools' must be an array", "invalid_type"),
        ("tools", [5], "'tools[0]' must be an object", "invalid_type"),
        ("tools", [WEATHER] * 129, "'tools' must have at most 128 items, got 129", "invalid_value"),
        ("tool_choice", 5, "'tool_choice' must be a string or an object", "invalid_type"),
        (
            "tool_choice",
            "some",
            "'tool_choice' must be one of any, auto, none, required, got 'some'",
            "invalid_value",
        ),
        ("tool_choice", {"type": "tool"}, "'tool_choice.type' must be one of function, got 'tool'", "invalid_value"),
        (
            "tool_choice",
            {"type": "function", "function": {}},
            "Missing required parameter: 'tool_choice.function.name'",
            "missing_required_parameter",
        ),
        ("stream_options", True, "'stream_options' must be an object", "invalid_type"),
        (
            "stream_options",
            {"include_usage": 1},
            "'stream_options.include_usage' must be a boolean",
            "invalid_type",
        ),
    ],
)
def test_tools_and_stream_options_have_their_shapes(field: str, wrong: object, message: str, code: str) -> None:
    assert refusal(HELLO | {field: wrong}) == (message, field, code)


@pytest.mark.parametrize("body", [b"", b"{", b"{'model': 'm'}", b'{"n": NaN}', b"model=m", b"\xff", b'{"n": 1e999}'])
def test_a_body_that_is_not_json_is_refused(body: bytes) -> None:
    for decode in (lambda body: codec.decode_chat(body, decode_context()), codec.decode_adapter):
        with pytest.raises(MalformedJson) as caught:
            decode(body)
        message = "Request body is not valid JSON"
        assert rendered(caught.value) == (
            400,
            {"message": message, "type": "invalid_request_error", "param": None, "code": None},
        )


@pytest.mark.parametrize("body", [b"[]", b"5", b"null", b'"{}"'])
def test_json_that_is_not_an_object_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedJson) as caught:
        codec.decode_chat(body, decode_context())
    error = rendered(caught.value)[1]
    assert (error["message"], error["param"], error["code"]) == ("Request body must be a JSON object", None, None)


def test_an_answer_has_every_choice_and_the_usage_of_all() -> None:
    call = chat()
    for event in GREETING:
        list(call.builder.feed(event))
    answer = json.loads(call.builder.build())
    assert isinstance(answer.pop("created"), int)
    assert answer == {
        "id": f"chatcmpl-{ID}",
        "object": "chat.completion",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello"},
                "finish_reason": "stop",
                "logprobs": None,
            },
            {"index": 1, "message": {"role": "assistant", "content": ""}, "finish_reason": "length", "logprobs": None},
        ],
        "usage": GREETING_USAGE,
    }


def test_an_engine_that_ends_without_usage_has_failed() -> None:
    call = chat()
    list(call.builder.feed(Delta(0, "Hel", [1])))
    with pytest.raises(EngineFailed):
        call.builder.build()


@pytest.mark.parametrize("include_usage", [True, False, None])
def test_in_a_stream_each_choice_has_its_own_role_and_end(include_usage: bool | None) -> None:
    builder = chat(stream=True, stream_options={"include_usage": include_usage}).builder
    chunks = [json.loads(document) for event in GREETING for document in builder.feed(event)]
    assert {(chunk["id"], chunk["object"], chunk["model"]) for chunk in chunks} == {
        (f"chatcmpl-{ID}", "chat.completion.chunk", "m")
    }
    assert len({chunk["created"] for chunk in chunks}) == 1
    if include_usage:
        usage = chunks.pop()
        assert (usage["choices"], usage["usage"]) == ([], GREETING_USAGE)
    assert not any("usage" in chunk for chunk in chunks)
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": index, "delta": delta, "finish_reason": reason, "logprobs": None}]
        for index, delta, reason in [
            (0, {"role": "assistant", "content": ""}, None),
            (0, {"content": "Hel"}, None),
            (0, {"content": "lo"}, None),
            (1, {"role": "assistant", "content": ""}, None),
            (1, {}, "length"),
            (0, {}, "stop"),
        ]
    ]
    assert builder.terminator() == b"data: [DONE]\n\n"


@pytest.mark.parametrize("source", ["HF_HUB", "LOCAL"])
def test_an_adapter_has_a_name_and_a_source(source: str) -> None:
    wanted = codec.decode_adapter(json.dumps(ADAPTER | {"model_source": source, "hf_token": None}).encode())
    kind: Any = {"HF_HUB": "hub", "LOCAL": "local"}[source]
    assert wanted == codec.AdapterRegistration(AdapterSpec("acme/lora", AdapterSource(kind, "acme/lora")), None)


def test_an_adapter_may_have_another_name_a_revision_and_a_base() -> None:
    fields = {"name": "lora", "hf_revision": "v2", "hf_token": "hf_secret", "base_model_name": "m"}
    wanted = codec.decode_adapter(json.dumps(ADAPTER | fields).encode())
    spec = AdapterSpec("lora", AdapterSource("hub", "acme/lora", "v2"), "m")
    assert wanted == codec.AdapterRegistration(spec, "hf_secret")


def test_the_main_branch_is_the_revision_that_is_meant_when_none_is_named() -> None:
    named = codec.decode_adapter(json.dumps(ADAPTER | {"hf_revision": "main"}).encode())
    assert named == codec.decode_adapter(json.dumps(ADAPTER).encode())
    body = json.loads(codec.adapter_body(RegisteredAdapter(Adapter("lora", named.spec.source, 17), "m")))
    assert body["active_deployment"]["hf_revision"] == "main"


@pytest.mark.parametrize(
    ("field", "wrong", "message", "code"),
    [
        ("model_name", None, "Missing required parameter: 'model_name'", "missing_required_parameter"),
        ("model_name", 5, "'model_name' must be a string", "invalid_type"),
        ("model_source", None, "Missing required parameter: 'model_source'", "missing_required_parameter"),
        ("model_source", 5, "'model_source' must be a string", "invalid_type"),
        ("model_source", "hf_hub", "'model_source' must be one of HF_HUB, LOCAL, got 'hf_hub'", "invalid_value"),
        ("hf_revision", 5, "'hf_revision' must be a string", "invalid_type"),
        ("hf_token", ["secret"], "'hf_token' must be a string", "invalid_type"),
        ("name", 5, "'name' must be a string", "invalid_type"),
    ],
)
def test_an_adapter_of_another_shape_is_refused(field: str, wrong: object, message: str, code: str) -> None:
    with pytest.raises(BadRequest) as caught:
        codec.decode_adapter(json.dumps(ADAPTER | {field: wrong}).encode())
    assert rendered(caught.value) == (
        400,
        {"message": message, "type": "invalid_request_error", "param": field, "code": code},
    )


def test_a_base_model_is_shown_under_each_of_its_names() -> None:
    models = [ServedModel("llama", ("meta/llama",), 8192)]
    for name in ("llama", "meta/llama"):
        assert json.loads(codec.base_model(name, models, 1706652711)) == {
            "active_deployment": {
                "created_at": 1706652711,
                "creator": {
                    "actor_type": "USER",
                    "api_key": {"name": ""},
                    "user": {"email": "", "first_name": "", "last_name": "", "profile_image_url": ""},
                },
                "model_name": "llama",
                "model_source": "HF_HUB",
            },
            "name": name,
            "unit_price": 0,
        }
    with pytest.raises(ModelNotFound):
        codec.base_model("Llama", models, 1706652711)


@pytest.mark.parametrize(
    ("error", "status", "message", "kind", "parameter", "code"),
    [
        (BadRequest("odd"), 400, "odd", "invalid_request_error", None, "invalid_value"),
        (BadRequest("empty", "messages"), 400, "empty", "invalid_request_error", "messages", "invalid_value"),
        (
            ContextOverflow(9000, 8192, "Shorten it."),
            400,
            "The prompt has 9000 tokens; the model's context length is 8192 tokens, "
            "and an answer needs at least one of them. Shorten it.",
            "invalid_request_error",
            "messages",
            "context_length_exceeded",
        ),
        (Unauthenticated("missing"), 401, "No API key provided", "authentication_error", None, "missing_api_key"),
        (
            Unauthenticated("malformed"),
            401,
            "Authorization header must have the form: Bearer <token>",
            "authentication_error",
            None,
            "invalid_api_key",
        ),
        (Unauthenticated("unknown"), 401, "Invalid API key", "authentication_error", None, "invalid_api_key"),
        (ModelNotFound("m"), 404, "Model 'm' not found", "invalid_request_error", "model", "model_not_found"),
        (BodyTooLarge(10), 413, "Request body is larger than 10 bytes", "invalid_request_error", None, None),
        (EngineFailed("secret"), 500, "An internal error occurred", "server_error", None, None),
        (DragomanError("secret"), 500, "An internal error occurred", "server_error", None, None),
        (ModelNameTaken("m"), 400, "A model named 'm' already exists", "invalid_request_error", "name", "name_taken"),
        (AdapterMissing("gone"), 400, "gone", "invalid_request_error", "model_name", "model_not_available"),
        *(
            (error, 503, "The server is overloaded, retry in 5 seconds", "server_error", None, "overloaded")
            for error in (Overloaded("full", 5), ModelLoading("loading", 5), ShuttingDown("draining", 5))
        ),
    ],
)
def test_every_error_has_its_status_and_its_frame(
    error: DragomanError, status: int, message: str, kind: str, parameter: str | None, code: str | None
) -> None:
    reply = errors.EmpowerErrors().render(error)
    body = {"error": {"message": message, "type": kind, "param": parameter, "code": code}}
    assert (reply.status, json.loads(reply.body)) == (status, body)
    frame = errors.EmpowerErrors().render_frame(error)
    assert frame == b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def test_overloads_have_retry_after_and_bad_keys_www_authenticate() -> None:
    reply = errors.EmpowerErrors().render
    assert reply(ModelLoading("loading", 2)).headers == {"retry-after": "2"}
    assert reply(Unauthenticated("missing")).headers == {"www-authenticate": "Bearer"}
    assert reply(EngineFailed("secret")).headers == {}
