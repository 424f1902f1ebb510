"""Bodies of requests to upstreams of each kind."""

from typing import Any

import msgspec
import pytest

from dragoman.core.capabilities import missing_need
from dragoman.core.request import (
    ChatPrompt,
    GenerationRequest,
    GrammarFormat,
    ImagePart,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    RegexFormat,
    SamplingParams,
    TextPart,
    TextPrompt,
    TokenPrompt,
    Tool,
    ToolCall,
    ToolOptions,
)
from dragoman.engines.upstream.kinds import KINDS, KindName
from dragoman.engines.upstream.request_body import CHAT_PATH, TEXT_PATH, request_body, request_path

HELLO = Message(role="user", content="Hello")
SCHEMA = {"type": "object"}


def body(kind: KindName = "vllm", *, max_tokens: int | None = None, salt: str = "", **fields: Any) -> dict[str, Any]:
    request = GenerationRequest(model="m", **{"prompt": ChatPrompt(messages=(HELLO,)), **fields})
    assert missing_need(request, KINDS[kind].capabilities) is None
    return request_body(request, KINDS[kind], model="upstream-model", max_tokens=max_tokens, salt=salt)


@pytest.mark.parametrize("kind", KINDS)
def test_every_request_is_streamed_with_its_usage(kind: KindName) -> None:
    sent = body(kind, max_tokens=5)
    assert sent["stream_options"].pop("include_usage")
    assert sent | {"stream_options": {}} == {
        "model": "upstream-model",
        "stream": True,
        "stream_options": {},
        "temperature": 1.0,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 5,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_sampling_parameter_that_a_kind_can_is_sent(kind: KindName) -> None:
    values = {
        "top_p": 0.9,
        "top_k": 3,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "logit_bias": {7: 1.5},
        "seed": 4,
        "min_tokens": 2,
        "ignore_eos": True,
        "stop": ("x",),
        "stop_token_ids": (9,),
        "bad_words": ("y",),
        "allowed_token_ids": (1, 2),
        "include_stop_text": True,
        "skip_special_tokens": False,
    }
    sent_fields = KINDS[kind].fields
    for field, value in values.items():
        request = GenerationRequest(
            model="m",
            prompt=ChatPrompt(messages=(HELLO,)),
            sampling=msgspec.structs.replace(SamplingParams(), **{field: value}),
        )
        if missing_need(request, KINDS[kind].capabilities) is not None:
            assert field not in sent_fields
            continue
        sent = request_body(request, KINDS[kind], model="m", max_tokens=None, salt="")
        expected = {"7": 1.5} if field == "logit_bias" else value
        assert sent[sent_fields[field]] == expected, f"{kind} is sent {field}"


def test_llama_server_calls_the_repetition_penalty_as_llama_cpp_does() -> None:
    assert body("llama-server", sampling=SamplingParams(repetition_penalty=1.2))["repeat_penalty"] == 1.2


def test_a_conversation_with_calls_images_and_reasoning_is_sent_in_openais_form() -> None:
    messages = (
        Message(role="user", content=(TextPart("What is it?"), ImagePart("data:image/png;base64,AA", "low"))),
        Message(role="assistant", content="", tool_calls=(ToolCall("call_1", "now", "{}"),), reasoning="Hm."),
        Message(role="tool", content="noon", tool_call_id="call_1"),
    )
    tools = ToolOptions((Tool("now", "The time", {"type": "object"}, strict=True), Tool("then")), "named", "now")
    sent = body(prompt=ChatPrompt(messages=messages, tools=tools, reasoning_effort="low"))
    assert sent["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
            ],
        },
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}],
            "reasoning": "Hm.",
        },
        {"role": "tool", "content": "noon", "tool_call_id": "call_1"},
    ]
    assert sent["tools"] == [
        {
            "type": "function",
            "function": {"name": "now", "description": "The time", "parameters": {"type": "object"}, "strict": True},
        },
        {"type": "function", "function": {"name": "then"}},
    ]
    assert (sent["tool_choice"], sent["reasoning_effort"]) == (
        {"type": "function", "function": {"name": "now"}},
        "low",
    )


@pytest.mark.parametrize(
    ("kind", "choice", "is_strict"),
    [("vllm", "required", True), ("vllm", "named", True), ("vllm", "auto", False), ("openai", "required", False)],
)
def test_a_call_that_is_required_follows_its_schema(kind: KindName, choice: Any, *, is_strict: bool) -> None:
    tools = ToolOptions((Tool("now", parameters=SCHEMA),), choice, "now" if choice == "named" else None)
    [tool] = body(kind, prompt=ChatPrompt(messages=(HELLO,), tools=tools))["tools"]
    assert tool["function"].get("strict", False) is is_strict


@pytest.mark.parametrize(
    ("kind", "response_format", "expected"),
    [
        ("openai", JsonObjectFormat(), {"response_format": {"type": "json_object"}}),
        (
            "ollama",
            JsonSchemaFormat(SCHEMA, strict=True),
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
                }
            },
        ),
        (
            "llama-server",
            JsonSchemaFormat(SCHEMA),
            {"response_format": {"type": "json_object", "schema": SCHEMA}},
        ),
        ("vllm", RegexFormat("a+"), {"structured_outputs": {"regex": "a+"}}),
        ("vllm", GrammarFormat("root ::= x"), {"structured_outputs": {"grammar": "root ::= x"}}),
        ("sglang", RegexFormat("a+"), {"regex": "a+"}),
        ("sglang", GrammarFormat("root ::= x"), {"ebnf": "root ::= x"}),
        ("llama-server", GrammarFormat("root ::= x"), {"grammar": "root ::= x"}),
    ],
)
def test_each_kind_has_its_own_form_of_formats(kind: KindName, response_format: Any, expected: dict[str, Any]) -> None:
    sent = body(kind, response_format=response_format)
    assert {name: sent[name] for name in expected} == expected


def test_texts_and_token_ids_go_to_the_completions() -> None:
    assert request_path(GenerationRequest(model="m", prompt=ChatPrompt(messages=(HELLO,)))) == CHAT_PATH
    for prompt, sent in ((TextPrompt("a", add_special_tokens=False), "a"), (TokenPrompt((1, 2)), (1, 2))):
        assert request_path(GenerationRequest(model="m", prompt=prompt)) == TEXT_PATH
        assert body(prompt=prompt, logprobs=2, max_tokens=3)["prompt"] == sent
    assert body(prompt=TextPrompt("a", add_special_tokens=False))["add_special_tokens"] is False


def test_a_message_is_continued_in_the_words_of_the_kind() -> None:
    messages = (Message(role="user", content="Count"), Message(role="assistant", content="1, 2,"))
    prompt = ChatPrompt(messages=messages, continue_final_message=True)
    fields = {"continue_final_message", "add_generation_prompt"}
    assert fields <= body("vllm", prompt=prompt).keys()
    sent = body("llama-server", prompt=prompt)
    assert not fields & sent.keys()
    assert sent["messages"][-1] == {"role": "assistant", "content": "1, 2,"}


def test_a_verbosity_is_sent_to_openai() -> None:
    assert body("openai", prompt=ChatPrompt(messages=(HELLO,), verbosity="low"))["verbosity"] == "low"
    asking = GenerationRequest(model="m", prompt=ChatPrompt(messages=(HELLO,), verbosity="low"))
    able = {name for name, kind in KINDS.items() if missing_need(asking, kind.capabilities) is None}
    assert able == {"openai"}


def test_a_salt_is_sent_only_where_there_is_a_field_for_it() -> None:
    assert body("vllm", salt="abc")["cache_salt"] == "abc"
    assert "abc" not in body("openai", salt="abc").values()
