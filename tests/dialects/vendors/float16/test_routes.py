"""The dialect in front of the echo engine: it answers with the last message, or the prompt, byte by byte."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from dragoman.core.errors import BadRequest, EngineFailed, ModelLoading
from dragoman.core.models import ServedModel
from dragoman.core.request import ChatPrompt, Message, SamplingParams, TextPrompt
from dragoman.dialects.http import sse
from dragoman.dialects.vendors.float16 import codec, errors
from tests.support.apps import KEY, MAX_BODY_BYTES, client_of, echo_app
from tests.support.dialects.decode_contexts import decode_context

CHAT = "/echo/v1/chat/completions"
TEXT = "/echo/v1/completions"
HELLO: dict[str, Any] = {"model": "echo", "messages": [{"role": "user", "content": "Hello"}]}
TEXT_BODY: dict[str, Any] = {"model": "acme/parrot", "prompt": "Once"}
DECODE_CONTEXT = decode_context(
    [ServedModel(id="echo", aliases=("acme/parrot",), context_length=8192)], deployment="echo"
)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(echo_app()) as client:
        yield client


def sampling(**fields: object) -> SamplingParams:
    call = codec.decode_text(json.dumps(TEXT_BODY | fields).encode(), DECODE_CONTEXT)
    return call.requests[0].sampling


def detail_of(response: httpx.Response, status: int) -> Any:
    assert response.status_code == status, response.text
    return response.json()["detail"]


def test_the_defaults_are_the_services() -> None:
    assert sampling() == SamplingParams(
        max_tokens=1024,
        temperature=0.7,
        top_k=40,
        top_p=0.7,
        repetition_penalty=1.0,
        seed=2,
        defaults=("top_k", "seed"),
    )


@pytest.mark.parametrize(
    ("sent", "seed"),
    [
        ({"random_sed": 0, "random_seed": 1, "seed": 3}, 0),
        ({"random_seed": 1, "seed": 3}, 1),
        ({"seed": 3}, 3),
        ({"random_sed": None, "seed": 2**64 - 1}, 2**64 - 1),
    ],
)
def test_the_first_spelling_of_the_seed_that_is_there_wins(sent: dict[str, int], seed: int) -> None:
    assert sampling(**sent).seed == seed


@pytest.mark.parametrize(
    ("sent", "ids", "ignores"), [({}, (), False), ({"end_id": 5}, (5,), True), ({"end_id": -1}, (), True)]
)
def test_end_id_replaces_the_models_own_ends(sent: dict[str, int], ids: tuple[int, ...], ignores: bool) -> None:
    made = sampling(**sent)
    assert (made.stop_token_ids, made.ignore_eos) == (ids, ignores)


@pytest.mark.parametrize(("sent", "stop"), [("x", ("x",)), (["x", "y"], ("x", "y")), ([], ())])
def test_stop_is_a_text_or_a_list(sent: object, stop: tuple[str, ...]) -> None:
    assert sampling(stop=sent).stop == stop


def test_penalties_and_choices_of_other_services_are_ignored() -> None:
    assert sampling(n=5, presence_penalty=2, logprobs=3, response_format={"type": "json_object"}) == sampling()


async def test_a_chat_is_answered_in_openais_shape(client: httpx.AsyncClient) -> None:
    answer = (await client.post(CHAT, json=HELLO)).json()
    assert answer.pop("id").startswith("chatcmpl-")
    assert isinstance(answer.pop("created"), int)
    assert answer == {
        "object": "chat.completion",
        "model": "echo",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None, "annotations": []},
                "finish_reason": "stop",
                "logprobs": None,
            },
        ],
        "usage": {
            "completion_tokens": 6,
            "prompt_tokens": 11,
            "total_tokens": 17,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


async def test_several_prompts_give_a_choice_each(client: httpx.AsyncClient) -> None:
    answer = (await client.post(TEXT, json=TEXT_BODY | {"prompt": ["a", "bc"]})).json()
    assert [choice["text"] for choice in answer["choices"]] == ["a", "bc"]
    assert answer["choices"][0] == {"index": 0, "text": "a", "logprobs": None, "finish_reason": "stop"}
    assert answer["model"] == "acme/parrot"


async def test_a_chat_stream_begins_with_the_role_and_ends_with_done(client: httpx.AsyncClient) -> None:
    sent = HELLO | {"stream": True, "max_tokens": 2, "stream_options": {"include_usage": True}}
    response = await client.post(CHAT, json=sent)
    *frames, end = response.text.split("\n\n")
    assert (frames.pop(), end) == ("data: [DONE]", "")
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
        [{"index": 0, "delta": {"content": "H"}, "finish_reason": None}],
        [{"index": 0, "delta": {"content": "e"}, "finish_reason": None}],
        [{"index": 0, "delta": {}, "finish_reason": "length"}],
        [],
    ]
    assert ["usage" in chunk for chunk in chunks] == [False, False, False, False, True]
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1


async def test_a_text_stream_ends_with_an_empty_text_and_the_reason(client: httpx.AsyncClient) -> None:
    response = await client.post(TEXT, json=TEXT_BODY | {"stream": True, "max_tokens": 1})
    frames = [frame.removeprefix("data: ") for frame in response.text.split("\n\n")]
    assert [json.loads(frame)["choices"][0] for frame in frames[:-2]] == [
        {"index": 0, "text": "O", "logprobs": None, "finish_reason": None},
        {"index": 0, "text": "", "logprobs": None, "finish_reason": "length"},
    ]


@pytest.mark.parametrize(
    ("field", "wrong", "message", "kind"),
    [
        ("model", None, "Field required", "missing"),
        ("model", 5, "Input should be a valid string", "string_type"),
        ("prompt", "", "String should have at least 1 characters, got 0", "too_short"),
        ("prompt", ["x"] * 17, "List should have at most 16 items, got 17", "too_long"),
        ("top_k", "40", "Input should be a valid integer", "int_type"),
        ("top_k", -2, "Input should be greater than or equal to -1", "greater_than_equal"),
        ("temperature", 3, "Input should be between 0 and 2", "value_error"),
        ("top_p", 1.1, "Input should be between 0 and 1", "value_error"),
        ("max_tokens", 0, "Input should be greater than or equal to 1", "greater_than_equal"),
        ("repetition_penalty", 0, "Input should be greater than 0", "greater_than"),
        ("random_sed", -1, "Input should be greater than or equal to 0", "greater_than_equal"),
        ("seed", 2**64, "Input should be at most 2^64 - 1", "value_error"),
        ("end_id", -2, "Input should be greater than or equal to -1", "greater_than_equal"),
        ("stream", 1, "Input should be a valid boolean", "bool_type"),
    ],
)
async def test_a_wrong_field_returns_422(
    client: httpx.AsyncClient, field: str, wrong: object, message: str, kind: str
) -> None:
    response = await client.post(TEXT, json=TEXT_BODY | {field: wrong})
    assert detail_of(response, 422) == [{"loc": ["body", field], "msg": message, "type": kind}]


async def test_all_violations_are_listed_in_the_order_of_the_fields(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json={"top_p": 2, "temperature": -1})
    assert [entry["loc"][1] for entry in detail_of(response, 422)] == ["model", "temperature", "top_p", "messages"]


async def test_a_body_that_is_not_a_json_object_returns_400(client: httpx.AsyncClient) -> None:
    assert detail_of(await client.post(TEXT, content=b"{'a'}"), 400) == "Request body is not valid JSON"
    assert detail_of(await client.post(TEXT, content=b"[1]"), 400) == "Request body must be a JSON object"


async def test_an_unknown_deployment_and_a_model_that_is_not_its_own_return_404(client: httpx.AsyncClient) -> None:
    assert detail_of(await client.post("/other/v1/completions", json=TEXT_BODY), 404) == "Deployment 'other' not found"
    response = await client.post(TEXT, json=TEXT_BODY | {"model": "foo"})
    assert detail_of(response, 404) == "Model 'foo' is not served by deployment 'echo'"


async def test_a_prompt_that_is_too_long_returns_400(client: httpx.AsyncClient) -> None:
    response = await client.post(TEXT, json=TEXT_BODY | {"prompt": "x" * 9000})
    detail = detail_of(response, 400)
    assert detail.startswith("The prompt has 9000 tokens; the model's context length is 8192 tokens")


async def test_a_body_that_is_too_large_returns_413(client: httpx.AsyncClient) -> None:
    response = await client.post(TEXT, json=TEXT_BODY | {"x": "y" * MAX_BODY_BYTES})
    assert detail_of(response, 413) == f"Request body is larger than {MAX_BODY_BYTES} bytes"


@pytest.mark.parametrize("header", ["Authorization", "Autherization", "autherization"])
@pytest.mark.parametrize("value", [KEY, f"Bearer {KEY}", f"bearer {KEY}"])
async def test_a_key_is_taken_under_both_spellings_with_and_without_bearer(header: str, value: str) -> None:
    async with client_of(echo_app(keys=[KEY])) as client:
        assert (await client.post(TEXT, json=TEXT_BODY, headers={header: value})).status_code == 200


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ({}, "Missing API key"),
        ({"authorization": "Bearer "}, "Missing API key"),
        ({"x-api-key": KEY}, "Missing API key"),
        ({"authorization": "Bearer sk-wrong"}, "Invalid API key"),
        ({"authorization": "Bearer sk-wrong", "autherization": KEY}, "Invalid API key"),
    ],
)
async def test_every_route_rejects_an_unknown_key(headers: dict[str, str], detail: str) -> None:
    async with client_of(echo_app(keys=[KEY])) as client:
        response = await client.post("/other/v1/completions", content=b"no json", headers=headers)
        assert detail_of(response, 401) == detail
        assert response.headers["www-authenticate"] == "Bearer"


def test_an_overload_returns_503_and_an_engine_failure_500() -> None:
    loading = errors.Float16Errors().render(ModelLoading("The model is being loaded", 2))
    assert (loading.status, loading.headers) == (503, {"retry-after": "2"})
    assert json.loads(loading.body) == {"detail": "The server is overloaded, retry in 2 seconds"}
    died = errors.Float16Errors().render(EngineFailed("secret"))
    assert (died.status, json.loads(died.body)) == (500, {"detail": "An internal error occurred"})


def test_an_error_inside_a_stream_raises_in_openais_clients() -> None:
    frame = sse.frame(errors.Float16Errors().render_event(EngineFailed("secret")))
    assert json.loads(frame.removeprefix(b"data: ")) == {
        "error": {"message": "An internal error occurred", "type": "server_error", "code": 500},
        "detail": "An internal error occurred",
    }


def test_messages_reach_the_model_unchanged() -> None:
    turns = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    [request] = codec.decode_chat(json.dumps(HELLO | {"messages": turns}).encode(), DECODE_CONTEXT).requests
    assert request.prompt == ChatPrompt(
        messages=(Message(role="system", content="Be brief"), Message(role="user", content="Hi"))
    )
    [request] = codec.decode_text(json.dumps(TEXT_BODY).encode(), DECODE_CONTEXT).requests
    assert (request.model, request.prompt, request.n) == ("echo", TextPrompt("Once"), 1)


def test_a_message_whose_role_and_content_are_separate_objects_is_rejected() -> None:
    split = [{"role": "user"}, {"content": "Hi"}]
    error_codec = errors.Float16Errors()
    with pytest.raises(BadRequest) as raised:
        codec.decode_chat(json.dumps(HELLO | {"messages": split}).encode(), DECODE_CONTEXT)
    assert "role and content belong in the same object" in error_codec.render(raised.value).body.decode()


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"role": "tool", "content": "Rain", "tool_call_id": "call_1"}, "role"),
        (
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}],
            },
            "tool_calls",
        ),
    ],
)
async def test_a_conversation_with_tools_is_refused(
    client: httpx.AsyncClient, message: dict[str, Any], field: str
) -> None:
    response = await client.post(CHAT, json=HELLO | {"messages": [*HELLO["messages"], message]})
    [problem] = detail_of(response, 422)
    assert problem["loc"] == ["body", "messages", 1, field]
    assert "no tools" in problem["msg"]
