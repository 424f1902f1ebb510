"""Fields of vLLM and of OpenAI's older API: decoding, and how they show in answers."""

import json
from typing import Any

import pytest

from dragoman.core.errors import BadRequest
from dragoman.core.events import (
    Delta,
    Event,
    Finished,
    PromptTokens,
    ReasoningDelta,
    Started,
    TokenLogprobs,
    ToolCallDelta,
    TopLogprob,
    Usage,
)
from dragoman.core.models import ServedModel
from dragoman.core.request import (
    ChatPrompt,
    GenerationRequest,
    JsonObjectFormat,
    Message,
    PromptTruncation,
    TextPrompt,
    Tool,
    ToolCall,
    ToolOptions,
)
from dragoman.dialects.http.codec import DecodedRequest
from dragoman.dialects.vendors.infermatic.codec import decode_chat, decode_queued_chat, decode_text
from tests.support.dialects.cases import build_response, stream_documents
from tests.support.dialects.decode_contexts import decode_context

MODELS = [ServedModel(id="m", aliases=("parrot",), context_length=100, fingerprint="fp_1")]
CHAT_BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
TEXT_BODY: dict[str, Any] = {"model": "m", "prompt": "Once"}


def chat(**fields: object) -> DecodedRequest:
    return decode_chat(json.dumps(CHAT_BODY | fields).encode(), decode_context(MODELS))


def text(**fields: object) -> DecodedRequest:
    return decode_text(json.dumps(TEXT_BODY | fields).encode(), decode_context(MODELS))


def refusal(**fields: object) -> BadRequest:
    """Return the error of both routes."""
    errors = []
    for route in (chat, text):
        with pytest.raises(BadRequest) as caught:
            route(**fields)
        errors.append(caught.value)
    assert (errors[0].message, errors[0].parameter) == (errors[1].message, errors[1].parameter)
    return errors[0]


def request(**fields: object) -> GenerationRequest:
    """Return the text request."""
    [decoded] = text(**fields).requests
    return decoded


def test_forbidden_tokens_reach_the_engine() -> None:
    for route in (chat, text):
        sampling = route(allowed_token_ids=[1, 2], bad_words=["a b"]).requests[0].sampling
        assert (sampling.allowed_token_ids, sampling.bad_words) == ((1, 2), ("a b",))
    assert refusal(allowed_token_ids=[]).message == "allowed_token_ids takes 1 to 65536 ids, got 0"
    assert refusal(allowed_token_ids=[-1]).parameter == "allowed_token_ids"
    for words in (["a", ""], [" "], ["a" * 257], ["a"] * 257):
        assert refusal(bad_words=words).parameter == "bad_words"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"truncate_prompt_tokens": 5}, PromptTruncation(5, 16)),
        ({"truncate_prompt_tokens": 5, "truncation_side": "right"}, PromptTruncation(5, 16, "right")),
        ({"truncate_prompt_tokens": -1, "max_tokens": 30}, PromptTruncation(None, 30)),
        ({"truncation_side": "right"}, None),
    ],
)
def test_a_prompt_is_truncated_on_both_routes(fields: dict[str, Any], expected: PromptTruncation | None) -> None:
    assert request(**fields).prompt == TextPrompt("Once", expected)
    of_chat = chat(**({"max_tokens": 16} | fields)).requests[0].prompt
    assert isinstance(of_chat, ChatPrompt)
    assert of_chat.truncation == expected


def test_a_prompt_cannot_be_truncated_to_nothing() -> None:
    assert refusal(truncate_prompt_tokens=0).message == "truncate_prompt_tokens must be -1 or at least 1, got 0"
    assert refusal(truncate_prompt_tokens=-2).parameter == "truncate_prompt_tokens"


def test_no_tokens_are_an_answer_only_with_echo() -> None:
    assert request(max_tokens=0, echo=True).sampling.max_tokens == 0
    for field in ("max_tokens", "max_completion_tokens"):
        with pytest.raises(BadRequest, match=f"^{field} must be at least 1, got 0; 0 needs echo$") as caught:
            text(**{field: 0})
        assert caught.value.parameter == field
        with pytest.raises(BadRequest):
            chat(**{field: 0, "echo": True})


def test_options_of_a_stream_need_one_except_in_the_queue() -> None:
    for options in ({}, {"include_usage": True}, {"include_usage": False}):
        error = refusal(stream_options=options)
        assert (error.message, error.parameter) == (
            "stream_options is only allowed when stream is true",
            "stream_options",
        )
    body = json.dumps(CHAT_BODY | {"stream_options": {"include_usage": True}}).encode()
    assert not decode_queued_chat(body, decode_context(MODELS)).stream


def test_a_stored_request_is_restored_whatever_is_refused_by_now() -> None:
    fields = {"use_beam_search": True, "stream_options": {"include_usage": True}}
    assert decode_chat(json.dumps(CHAT_BODY | fields).encode(), decode_context()).requests == chat().requests
    assert decode_text(json.dumps(TEXT_BODY | fields).encode(), decode_context()).requests == text().requests


def test_a_text_has_a_response_format_as_in_vllm() -> None:
    assert request(response_format={"type": "json_object"}).response_format == JsonObjectFormat()


def test_the_salt_of_the_prefix_cache_reaches_the_engine() -> None:
    assert request(cache_salt="secret").cache_salt == "secret"
    assert refusal(cache_salt="").parameter == "cache_salt"


def test_the_fingerprint_is_the_models_whether_the_request_is_new_or_restored() -> None:
    for decoded in (chat(), text(model="parrot")):
        assert build_response(decoded.builder, HELLO)["system_fingerprint"] == "fp_1"
    restored = decode_chat(json.dumps(CHAT_BODY).encode(), decode_context(None, **chat().extra_arguments))
    assert build_response(restored.builder, HELLO)["system_fingerprint"] == "fp_1"
    assert "system_fingerprint" not in build_response(chat(model="unknown").builder, HELLO)


HELLO: list[Event] = [Delta(0, "Hi", [5]), Finished(0, "stop", "!"), Usage(2, 1, 0)]

REPORTED: list[Event] = [
    PromptTokens(
        0,
        [7, 8],
        [
            TokenLogprobs(7, b"a", None, []),
            TokenLogprobs(8, b"b", -2.5, [TopLogprob(9, b"c", -0.5), TopLogprob(8, b"b", -2.5)], 2),
        ],
    ),
    Delta(0, "", [1]),
    Delta(0, "Hel", [2]),
    Delta(0, "lo", [3]),
    Finished(0, "stop", 4),
    Usage(2, 4, 0),
]


def test_the_reason_for_a_stop_is_in_answers_and_last_chunks() -> None:
    for decoded, streamed in ((chat(), chat(stream=True)), (text(), text(stream=True))):
        [choice] = build_response(decoded.builder, HELLO)["choices"]
        assert choice["stop_reason"] == "!"
        *others, last = stream_documents(streamed.builder, HELLO)
        assert last["choices"][0]["stop_reason"] == "!"
        assert not any("stop_reason" in chunk["choices"][0] for chunk in others)


def test_token_ids_of_prompt_and_answer_are_returned() -> None:
    answer = build_response(chat(return_token_ids=True).builder, REPORTED)
    assert (answer["prompt_token_ids"], answer["choices"][0]["token_ids"]) == ([7, 8], [1, 2, 3])
    [choice] = build_response(text(return_token_ids=True).builder, REPORTED)["choices"]
    assert (choice["prompt_token_ids"], choice["token_ids"]) == ([7, 8], [1, 2, 3])
    assert chat(return_token_ids=True).requests[0].reports_prompt


def test_a_stream_has_each_token_id_once_and_those_of_the_prompt_first() -> None:
    for decoded in (chat(return_token_ids=True, stream=True), text(return_token_ids=True, stream=True)):
        chunks = stream_documents(decoded.builder, REPORTED)
        assert [chunk["choices"][0]["token_ids"] for chunk in chunks] == [[1, 2], [3], []]
        of_prompt = [{**chunk, **chunk["choices"][0]}.get("prompt_token_ids") for chunk in chunks]
        assert of_prompt == [[7, 8], None, None]


def test_log_probabilities_of_the_prompt_are_by_token_id_with_ranks() -> None:
    expected = [
        None,
        {
            "8": {"logprob": -2.5, "rank": 2, "decoded_token": "b"},
            "9": {"logprob": -0.5, "rank": 1, "decoded_token": "c"},
        },
    ]
    answer = build_response(chat(prompt_logprobs=2).builder, REPORTED)
    assert answer["prompt_logprobs"] == expected
    assert "token_ids" not in answer["choices"][0]
    [choice] = build_response(text(prompt_logprobs=2).builder, REPORTED)["choices"]
    assert choice["prompt_logprobs"] == expected
    assert request(prompt_logprobs=0).prompt_logprobs == 0
    assert refusal(prompt_logprobs=1, stream=True).message == "prompt_logprobs cannot be streamed"
    for number in (-1, 21):
        assert refusal(prompt_logprobs=number).parameter == "prompt_logprobs"


def test_every_chunk_has_the_usage_so_far_on_request() -> None:
    # guidellm sends these options, also to servers behind this one, which may not say which tokens they used.
    options = {"include_usage": True, "continuous_usage_stats": True}
    events: list[Event] = [Started(2, 0), Delta(0, "a", [8, 9]), Delta(0, "b", unidentified_tokens=1), *REPORTED[-2:]]
    for decoded in (chat(stream=True, stream_options=options), text(stream=True, stream_options=options)):
        assert not decoded.requests[0].reports_prompt
        usages = [chunk["usage"] for chunk in stream_documents(decoded.builder, events)]
        assert [(usage["prompt_tokens"], usage["completion_tokens"]) for usage in usages] == [
            (2, 2),
            (2, 3),
            (2, 3),
            (2, 4),
        ]


def test_the_usage_so_far_of_each_of_several_prompts_is_its_own() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    decoded = text(prompt=["Once", "Twice upon"], stream=True, stream_options=options)
    assert all(request.reports_prompt for request in decoded.requests)
    events: list[Event] = [PromptTokens(0, [1]), PromptTokens(1, [1, 2]), Delta(1, "a", [8]), Delta(0, "b", [9])]
    usages = [chunk["usage"] for event in events for chunk in stream_documents(decoded.builder, [event])]
    assert [usage["prompt_tokens"] for usage in usages] == [2, 1]


def test_usage_so_far_needs_the_usage_itself() -> None:
    only = chat(stream=True, stream_options={"continuous_usage_stats": True})
    assert not any("usage" in chunk for chunk in stream_documents(only.builder, REPORTED))


def test_log_probabilities_have_the_sampled_token_among_the_likeliest() -> None:
    top = [TopLogprob(1, b"x", -0.1)]
    events: list[Event] = [Delta(0, "y", [2], [TokenLogprobs(2, b"y", -3.0, top)]), *HELLO[1:]]
    [choice] = build_response(text(logprobs=1).builder, events)["choices"]
    assert choice["logprobs"]["top_logprobs"] == [{"x": -0.1, "y": -3.0}]
    [choice] = build_response(chat(logprobs=True, top_logprobs=1).builder, events)["choices"]
    assert [likely["token"] for likely in choice["logprobs"]["content"][0]["top_logprobs"]] == ["x", "y"]
    nothing_asked: list[Event] = [Delta(0, "y", [2], [TokenLogprobs(2, b"y", -3.0, [])]), *HELLO[1:]]
    [choice] = build_response(text(logprobs=0).builder, nothing_asked)["choices"]
    assert choice["logprobs"]["top_logprobs"] == [{"y": -3.0}]


def test_log_probabilities_may_name_their_tokens_by_id() -> None:
    top = [TopLogprob(1, b"x", -0.1)]
    events: list[Event] = [Delta(0, "y", [2], [TokenLogprobs(2, b"y", -3.0, top)]), *HELLO[1:]]
    fields = {"return_tokens_as_token_ids": True}
    [choice] = build_response(text(logprobs=1, **fields).builder, events)["choices"]
    assert choice["logprobs"]["tokens"] == ["token_id:2"]
    assert choice["logprobs"]["top_logprobs"] == [{"token_id:1": -0.1, "token_id:2": -3.0}]
    [choice] = build_response(chat(logprobs=True, top_logprobs=1, **fields).builder, events)["choices"]
    assert choice["logprobs"]["content"][0]["token"] == "token_id:2"


def test_a_chat_echoes_the_assistants_own_message_only() -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "So"}]
    decoded = chat(messages=turns, echo=True)
    assert build_response(decoded.builder, HELLO)["choices"][0]["message"]["content"] == "SoHi"
    first, *_ = stream_documents(chat(messages=turns, echo=True, stream=True).builder, HELLO)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "So"}
    assert build_response(chat(echo=True).builder, HELLO)["choices"][0]["message"]["content"] == "Hi"


NOW = Tool("now", None, None)
LATER = Tool("later", None, None)
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("now", "later")]


def tool_options(**fields: object) -> ToolOptions | None:
    prompt = chat(**fields).requests[0].prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt.tools


def allowed_tools(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def test_all_tools_are_seen_and_the_allowed_ones_may_be_called() -> None:
    options = tool_options(tools=TOOLS, tool_choice=allowed_tools("required", "later"))
    assert options == ToolOptions((NOW, LATER), "required", allowed=("later",))
    assert options.callable_tools == (LATER,)
    options = tool_options(tools=TOOLS, tool_choice=allowed_tools("auto", "now", "later"))
    assert options is not None
    assert (options.choice, options.callable_tools) == ("auto", (NOW, LATER))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tool_choice": allowed_tools("auto", "none")}, "tool_choice.allowed_tools.tools[0].function.name: None of"),
        ({"tool_choice": allowed_tools("any", "now")}, "tool_choice.allowed_tools.mode must be one of"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools is required"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function is required"),
        ({"tool_choice": {"type": "custom"}}, "tool_choice.type must be one of"),
        ({"functions": [{"name": "now"}]}, "functions and function_call are the older form"),
    ],
)
def test_a_choice_of_tools_that_cannot_be_followed_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        chat(tools=TOOLS, **fields)
    assert caught.value.message.startswith(message)


FUNCTIONS = [{"name": "now"}, {"name": "later"}]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ToolOptions((NOW, LATER), parallel=False)),
        ({"function_call": "auto"}, ToolOptions((NOW, LATER), parallel=False)),
        ({"function_call": "none"}, None),
        ({"function_call": {"name": "now"}}, ToolOptions((NOW, LATER), "named", "now", parallel=False)),
    ],
)
def test_functions_are_tools_of_which_one_is_called(fields: dict[str, Any], expected: ToolOptions | None) -> None:
    assert tool_options(functions=FUNCTIONS, **fields) == expected


def test_mistakes_in_functions_are_named_in_their_own_terms() -> None:
    for fields, parameter, message in (
        ({"functions": [*FUNCTIONS, {"name": "now"}]}, "functions", "functions[2].name: Names of tools"),
        ({"functions": FUNCTIONS, "function_call": {"name": "x"}}, "function_call", "function_call.name: None of"),
        ({"function_call": {"name": "x"}}, "function_call", "function_call.name: None of"),
        ({"functions": [{"name": "a b"}]}, "functions", "functions[0].name must match"),
    ):
        with pytest.raises(BadRequest) as caught:
            chat(**fields)
        assert caught.value.parameter == parameter
        assert caught.value.message.startswith(message)
    assert chat(functions=FUNCTIONS).field_names["tools"] == "functions"


CALL: list[Event] = [
    ToolCallDelta(index=0, call_index=0, arguments="", token_ids=[2], id="call_0", name="now"),
    ToolCallDelta(index=0, call_index=0, arguments='{"zone":"UTC"}', token_ids=[3]),
    Finished(0, "tool_calls"),
    Usage(12, 4, 0),
]


def test_the_answer_to_functions_has_the_older_shape() -> None:
    [choice] = build_response(chat(functions=FUNCTIONS).builder, CALL)["choices"]
    message = choice["message"]
    assert choice["finish_reason"] == "function_call"
    assert (message["content"], message["function_call"]) == (None, {"name": "now", "arguments": '{"zone":"UTC"}'})
    assert "tool_calls" not in message
    chunks = stream_documents(chat(functions=FUNCTIONS, stream=True).builder, CALL)
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "function_call": {"name": "now", "arguments": ""}},
        {"function_call": {"arguments": '{"zone":"UTC"}'}},
        {},
    ]
    assert chunks[-1]["choices"][0]["finish_reason"] == "function_call"


def test_calls_and_results_of_functions_in_a_conversation_are_those_of_tools() -> None:
    turns = [
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": None, "function_call": {"name": "now", "arguments": "{}"}},
        {"role": "function", "name": "now", "content": "12:00"},
    ]
    prompt = chat(messages=turns).requests[0].prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages[1:] == (
        Message(role="assistant", content="", tool_calls=(ToolCall("call00001", "now", "{}"),)),
        Message(role="tool", name="now", content="12:00", tool_call_id="call00001"),
    )


def test_reasoning_is_left_out_on_request() -> None:
    events: list[Event] = [ReasoningDelta(0, "Hm", [1]), *HELLO]
    message = build_response(chat(include_reasoning=False).builder, events)["choices"][0]["message"]
    assert "reasoning_content" not in message
    assert message["content"] == "Hi"
