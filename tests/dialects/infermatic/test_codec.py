import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
)
from dragoman.core.events import Delta, Event, Finished, Usage
from dragoman.core.request import ChatPrompt, GenerationRequest, Message, SamplingParams, TextPrompt, TokenPrompt
from dragoman.dialects.exchange import AnswerMachine, Call
from dragoman.dialects.infermatic.codec import InfermaticErrors, decode_chat, decode_text
from dragoman.dialects.validation import InvalidFields, MalformedJson, Missing, Violation

ID = "0123456789abcdef0123456789abcdef"
HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
ONCE: dict[str, Any] = {"model": "m", "prompt": "Once"}
CHAT_PROMPT = ChatPrompt((Message("user", "Hi"),))

INTEGERS = ["max_tokens", "max_completion_tokens", "min_tokens", "top_k", "n", "best_of", "seed", "priority"]
NUMBERS = ["temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"]
BOOLEANS = [
    "stream",
    "ignore_eos",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "spaces_between_special_tokens",
]


def chat(**fields: object) -> Call:
    return decode_chat(json.dumps(HELLO | fields).encode(), ID, None)


def text(**fields: object) -> Call:
    return decode_text(json.dumps(ONCE | fields).encode(), ID, None)


def sampling(**fields: object) -> SamplingParams:
    """What both routes make of the fields, but for their own default of max_tokens."""
    of_chat, of_text = chat(**fields).requests[0].sampling, text(**fields).requests[0].sampling
    assert of_chat == of_text or {"max_tokens", "max_completion_tokens"}.isdisjoint(fields)
    return of_chat


def refusal(route: Callable[..., Call], /, **fields: object) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        route(**fields)
    return caught.value


def test_a_chat_request_has_the_defaults_of_openai() -> None:
    [request] = chat().requests
    assert request == GenerationRequest("m", CHAT_PROMPT, SamplingParams(), n=1, echo=False, priority=128)
    assert request.sampling.max_tokens is None


def test_a_text_request_has_the_same_defaults_and_16_tokens() -> None:
    [request] = text().requests
    assert request == GenerationRequest("m", TextPrompt("Once"), SamplingParams(max_tokens=16), priority=128)


def test_null_equals_absent_in_every_optional_field() -> None:
    common = dict.fromkeys(
        [*INTEGERS, *NUMBERS, *BOOLEANS, "logit_bias", "stop", "stop_token_ids", "stream_options", "user", "logprobs"]
    )
    chat_only = dict.fromkeys(["top_logprobs", "tools", "tool_choice", "response_format", "parallel_tool_calls"])
    assert chat(**common, **chat_only).requests == chat().requests
    assert text(**common, echo=None, suffix=None).requests == text().requests
    assert not chat(**common).stream


def test_the_vendors_own_example_is_taken_on_both_routes() -> None:
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
    assert chat(prompt={"any": "thing"}, echo="yes", suffix=1).requests == chat().requests
    assert text(messages="anything", tools=[1], response_format=0).requests == text().requests


def test_unknown_fields_are_ignored() -> None:
    assert chat(prompt_logprobs=1, unknown={"a": [1]}).requests == chat().requests


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
def test_a_field_says_how_to_sample(fields: dict[str, object], expected: SamplingParams) -> None:
    assert chat(**fields).requests[0].sampling == expected


@pytest.mark.parametrize("field", INTEGERS)
def test_an_integer_may_be_spelt_40_or_40_0_and_nothing_else(field: str) -> None:
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
def test_a_value_is_accepted_to_the_ends_of_its_range_and_refused_beyond(
    field: str, accepted: list[object], refused: list[object]
) -> None:
    for value in accepted:
        chat(**{field: value})
        text(**{field: value})
    for value in refused:
        assert refusal(chat, **{field: value}).parameter == field
        assert refusal(text, **{field: value}).parameter == field


def test_a_value_out_of_range_is_told_with_its_field_range_and_value() -> None:
    assert refusal(chat, temperature=3).message == "temperature must be between 0 and 2, got 3"
    assert refusal(chat, min_tokens=5, max_tokens=4).message == "min_tokens must not be above max_tokens, got 5 and 4"
    assert refusal(text, min_tokens=17).message == "min_tokens must not be above max_tokens, got 17 and 16"


@pytest.mark.parametrize(("sent", "counted"), [(0, 128), (1, 1), (128, 128), (255, 255), (256, 255), (2000, 255)])
def test_priorities_above_255_count_as_255_and_0_says_nothing(sent: int, counted: int) -> None:
    assert chat(priority=sent).requests[0].priority == counted


@pytest.mark.parametrize(
    ("route", "fields"),
    [
        (chat, {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        (chat, {"tool_choice": "required"}),
        (chat, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
        (chat, {"logprobs": True}),
        (chat, {"top_logprobs": 5}),
        (chat, {"response_format": {"type": "json_object"}}),
        (chat, {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}}),
        (chat, {"best_of": 2}),
        (text, {"best_of": 2}),
        (text, {"logprobs": 0}),
        (text, {"logprobs": 5}),
        (text, {"suffix": "The end."}),
    ],
)
def test_what_is_not_supported_yet_is_refused_by_name(route: Callable[..., Call], fields: dict[str, object]) -> None:
    error = refusal(route, **fields)
    [field] = fields
    assert error.parameter == field
    assert error.message == f"{field} is not supported by this server"


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"tool_choice": "none"},
        {"tool_choice": "auto"},
        {"parallel_tool_calls": False},
        {"response_format": {"type": "text"}},
        {"logprobs": False},
        {"n": 3, "best_of": 3},
    ],
)
def test_asking_for_nothing_that_is_not_supported_is_no_error(fields: dict[str, object]) -> None:
    assert chat(**fields).requests == chat(n=fields.get("n")).requests


def test_an_empty_suffix_is_none() -> None:
    assert text(suffix="").requests == text().requests


def test_several_prompts_are_several_requests_alike() -> None:
    requests = text(prompt=["one", "two"], n=2, max_tokens=3, echo=True).requests
    assert [request.prompt for request in requests] == [TextPrompt("one"), TextPrompt("two")]
    assert {(request.n, request.echo, request.sampling.max_tokens) for request in requests} == {(2, True, 3)}
    assert text(prompt=[[1, 2], [3]]).requests[1].prompt == TokenPrompt((3,))


def test_the_model_of_the_path_beats_the_one_in_the_body() -> None:
    for decode, body in ((decode_chat, HELLO), (decode_text, ONCE)):
        without_model = {key: value for key, value in body.items() if key != "model"}
        assert decode(json.dumps(body).encode(), ID, "a/b").requests[0].model == "a/b"
        assert decode(json.dumps(without_model).encode(), ID, "a/b").requests[0].model == "a/b"


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
    route: Callable[..., Call], fields: dict[str, object], parameter: str
) -> None:
    detail = json.loads(InfermaticErrors("/", "prompt").reply(refusal(route, **fields)).body)["error"]
    assert (detail["message"], detail["param"]) == (f"Missing required parameter: '{parameter}'", parameter)


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    """The events of one to three choices, interleaved, with at least one choice."""
    streams: list[list[Event]] = []
    for index in range(draw(st.integers(1, 3))):
        deltas: list[Event] = [Delta(index, part, [7]) for part in draw(st.lists(st.text(max_size=3), max_size=4))]
        streams.append([*deltas, Finished(index, draw(st.sampled_from(["stop", "length"])))])
    order = draw(st.permutations([number for number, stream in enumerate(streams) for _ in stream]))
    queues = [iter(stream) for stream in streams]
    return [*(next(queues[number]) for number in order), Usage(draw(st.integers(1, 99)), draw(st.integers(1, 99)), 0)]


def streamed(machine: AnswerMachine, events: list[Event]) -> list[Any]:
    return [json.loads(document) for event in events for document in machine.feed(event)]


def collected(machine: AnswerMachine, events: list[Event]) -> Any:
    streamed(machine, events)
    return json.loads(machine.collected())


def shown(chunk: Any) -> str:
    choice = chunk["choices"][0]
    content: str = choice["delta"].get("content", "") if "delta" in choice else choice["text"]
    return content


@pytest.mark.parametrize("route", [chat, text])
@given(events=answers())
def test_the_chunks_of_a_stream_add_up_to_the_collected_answer(route: Callable[..., Call], events: list[Event]) -> None:
    options = {"include_usage": True}
    *chunks, usage = streamed(route(stream=True, stream_options=options).machine, events)
    answer = collected(route().machine, events)
    for choice in answer["choices"]:
        own = [chunk for chunk in chunks if chunk["choices"][0]["index"] == choice["index"]]
        said = choice["message"]["content"] if route is chat else choice["text"]
        assert "".join(map(shown, own)) == said
        assert [chunk["choices"][0].get("finish_reason") for chunk in own][-1] == choice["finish_reason"]
    assert usage["choices"] == []
    assert usage["usage"] == answer["usage"]


@given(answers())
def test_choices_come_in_order_each_with_its_text_and_reason(events: list[Event]) -> None:
    answer = collected(chat().machine, events)
    reasons = {event.index: event.reason for event in events if isinstance(event, Finished)}
    assert [choice["index"] for choice in answer["choices"]] == sorted(reasons)
    for choice in answer["choices"]:
        index = choice["index"]
        said = "".join(event.text for event in events if isinstance(event, Delta) and event.index == index)
        assert (choice["message"]["content"], choice["finish_reason"]) == (said, reasons[index])


@given(answers())
def test_a_stream_has_no_empty_content_and_names_the_role_with_the_first_text(events: list[Event]) -> None:
    begun = set()
    for chunk in streamed(chat(stream=True).machine, events):
        [choice] = chunk["choices"]
        if choice["delta"] == {}:
            assert choice["finish_reason"]
        else:
            assert choice["delta"]["content"] != ""
            assert ("role" in choice["delta"]) == (choice["index"] not in begun)
            begun.add(choice["index"])


HELLO_EVENTS: list[Event] = [
    Delta(0, "Hel", [1]),
    Delta(0, "", [2]),
    Delta(0, "lo!", [3]),
    Finished(0, "stop"),
    Usage(12, 3, 0),
]


def test_a_chat_answer_has_the_documented_shape() -> None:
    answer = collected(chat().machine, HELLO_EVENTS)
    assert isinstance(answer.pop("created"), int)
    assert answer == {
        "id": f"chatcmpl-{ID}",
        "object": "chat.completion",
        "model": "m",
        "choices": [
            {
                "finish_reason": "stop",
                "index": 0,
                "message": {"content": "Hello!", "role": "assistant", "tool_calls": None, "function_call": None},
            }
        ],
        "usage": {
            "completion_tokens": 3,
            "prompt_tokens": 12,
            "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
        "system_fingerprint": None,
    }


def test_a_text_answer_has_the_documented_shape() -> None:
    answer = collected(text().machine, HELLO_EVENTS)
    assert (answer["id"], answer["object"], answer["model"]) == (f"cmpl-{ID}", "text_completion", "m")
    assert answer["choices"] == [{"finish_reason": "stop", "index": 0, "text": "Hello!", "logprobs": None}]


def test_the_chunks_of_a_chat_have_the_documented_shape() -> None:
    chunks = streamed(chat(stream=True, stream_options={"include_usage": True}).machine, HELLO_EVENTS)
    assert all(list(chunk)[:5] == ["id", "created", "model", "object", "choices"] for chunk in chunks)
    assert {(chunk["id"], chunk["model"], chunk["object"]) for chunk in chunks} == {
        (f"chatcmpl-{ID}", "m", "chat.completion.chunk")
    }
    assert len({chunk["created"] for chunk in chunks}) == 1
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "delta": {"content": "Hel", "role": "assistant"}}],
        [{"index": 0, "delta": {"content": "lo!"}}],
        [{"finish_reason": "stop", "index": 0, "delta": {}}],
        [],
    ]
    assert [set(chunk) - {"id", "created", "model", "object", "choices"} for chunk in chunks] == [
        set(),
        set(),
        set(),
        {"usage"},
    ]


def test_the_chunks_of_a_text_have_the_documented_shape() -> None:
    chunks = streamed(text(stream=True).machine, HELLO_EVENTS)
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "text": "Hel"}],
        [{"index": 0, "text": "lo!"}],
        [{"finish_reason": "stop", "index": 0, "text": ""}],
    ]


def test_a_stream_tells_its_usage_only_on_request() -> None:
    for options in (None, {}, {"include_usage": False}, {"include_usage": None}):
        chunks = streamed(chat(stream=True, stream_options=options).machine, HELLO_EVENTS)
        assert not any("usage" in chunk for chunk in chunks)


def test_a_stream_ends_with_done() -> None:
    assert chat(stream=True).machine.terminator() == b"data: [DONE]\n\n"


def test_an_engine_that_breaks_off_without_its_usage_has_failed() -> None:
    machine = chat().machine
    streamed(machine, HELLO_EVENTS[:-1])
    with pytest.raises(EngineFailed):
        machine.collected()


def test_names_and_texts_are_written_as_utf_8() -> None:
    machine = chat(model="модель").machine
    [chunk] = machine.feed(Delta(0, "日本\n", [1]))
    assert "модель" in chunk.decode()
    assert "日本\\n" in chunk.decode()
    assert b"\n" not in chunk


def error_rows() -> Iterator[tuple[DragomanError, int, str, str, str]]:
    bad = "bad_request_error"
    yield MalformedJson("Invalid JSON in request body"), 400, "Invalid JSON in request body", bad, "None"
    missing = InvalidFields([Violation(("model",), Missing())])
    yield missing, 400, "Missing required parameter: 'model'", bad, "model"
    range_message = "temperature must be between 0 and 2, got 3"
    yield BadRequest(range_message, "temperature"), 400, f"litellm.BadRequestError: {range_message}", bad, "temperature"
    yield BadRequest("no"), 400, "litellm.BadRequestError: no", bad, "None"
    unknown = (
        "/chat/completions: Invalid model name passed in model=foo. "
        "Call `/v1/models` to view available models for your key."
    )
    yield ModelNotFound("foo"), 400, unknown, "None", "None"
    yield BodyTooLarge(10485760), 413, "Request body is larger than 10485760 bytes", bad, "None"
    internal = "litellm.InternalServerError: An internal error occurred"
    yield EngineFailed("An internal error occurred"), 500, internal, "internal_server_error", "None"


@pytest.mark.parametrize(("error", "status", "message", "kind", "parameter"), list(error_rows()))
def test_an_error_is_told_in_litellms_envelope(
    error: DragomanError, status: int, message: str, kind: str, parameter: str
) -> None:
    codec = InfermaticErrors("/chat/completions", "messages")
    reply = codec.reply(error)
    expected = {"error": {"message": message, "type": kind, "param": parameter, "code": str(status)}}
    assert (reply.status, json.loads(reply.body), reply.headers) == (status, expected, {})
    assert codec.frame(error) == b"data: " + reply.body + b"\n\n"


@pytest.mark.parametrize("parameter", ["messages", "prompt"])
def test_a_prompt_that_is_too_long_is_told_with_the_field_it_came_in(parameter: str) -> None:
    reply = InfermaticErrors("/completions", parameter).reply(ContextOverflow(9000, 8192, "Shorten it."))
    detail = json.loads(reply.body)["error"]
    assert (reply.status, detail["type"], detail["param"]) == (400, "bad_request_error", parameter)
    assert detail["message"].startswith(
        "litellm.ContextWindowExceededError: The prompt has 9000 tokens; the model's context length is 8192 tokens"
    )


@pytest.mark.parametrize("error", [Overloaded("Too many", 7), ModelLoading("Loading", 7)])
def test_an_overload_answers_429_and_says_when_to_come_back(error: Overloaded) -> None:
    reply = InfermaticErrors("/completions", "prompt").reply(error)
    detail = json.loads(reply.body)["error"]
    assert (reply.status, reply.headers, detail["code"]) == (429, {"retry-after": "7"}, "429")
    assert detail["message"].startswith("No deployments available for selected model, Try again in 7 seconds")


def test_a_server_that_shuts_down_answers_503() -> None:
    reply = InfermaticErrors("/completions", "prompt").reply(ShuttingDown("The server is shutting down", 7))
    detail = json.loads(reply.body)["error"]
    assert (reply.status, reply.headers, detail["code"]) == (503, {"retry-after": "7"}, "503")
    assert detail["message"] == "litellm.ServiceUnavailableError: The server is shutting down"


def test_a_message_never_asks_to_come_back_in_less_than_a_second() -> None:
    reply = InfermaticErrors("/completions", "prompt").reply(Overloaded("Too many", 0))
    assert reply.headers == {"retry-after": "1"}
