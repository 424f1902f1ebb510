"""vLLM's routes that convert between text and tokens, over the echo engine, whose tokens are bytes."""

from collections.abc import AsyncIterator

import httpx
import pytest

from dragoman.dialects.http.context import HttpOptions
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.routing.catalog import Catalog, Deployment
from dragoman.server.app import build_app
from tests.support.apps import KEY, client_of, echo_app

MESSAGES = [{"role": "user", "content": "Hé"}]


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(echo_app()) as client:
        yield client


async def test_a_prompt_becomes_tokens_and_tokens_the_prompt(client: httpx.AsyncClient) -> None:
    tokenized = (await client.post("/tokenize", json={"model": "acme/parrot", "prompt": "Hé"})).json()
    assert tokenized == {"count": 3, "max_model_len": 8192, "tokens": [72, 195, 169], "token_strs": None}
    sent = {"model": "echo", "tokens": tokenized["tokens"]}
    assert (await client.post("/detokenize", json=sent)).json() == {"prompt": "Hé"}


async def test_tokens_are_named_if_asked_for(client: httpx.AsyncClient) -> None:
    tokenized = await client.post("/tokenize", json={"model": "echo", "prompt": "ab", "return_token_strs": True})
    assert tokenized.json()["token_strs"] == ["a", "b"]


async def test_a_conversation_has_the_tokens_it_is_charged_for(client: httpx.AsyncClient) -> None:
    tokenized = (await client.post("/tokenize", json={"messages": MESSAGES})).json()
    answer = (await client.post("/v1/chat/completions", json={"model": "echo", "messages": MESSAGES})).json()
    assert tokenized["count"] == len(tokenized["tokens"]) == answer["usage"]["prompt_tokens"]


async def test_the_only_model_need_not_be_named() -> None:
    catalog = Catalog([Deployment.of("one", (), EchoEngine()), Deployment.of("two", (), EchoEngine())])
    options = HttpOptions(max_body_bytes=1000, keep_alive_seconds=60)
    async with client_of(build_app(catalog, options, metrics_directory=None)) as client:
        response = await client.post("/tokenize", json={"prompt": "a"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "model")
    async with client_of(echo_app()) as client:
        assert (await client.post("/tokenize", json={"prompt": "a"})).json()["tokens"] == [97]
        assert (await client.post("/detokenize", json={"tokens": [97]})).json() == {"prompt": "a"}


@pytest.mark.parametrize(
    ("path", "body", "status", "parameter"),
    [
        ("/tokenize", {"model": "foo", "prompt": "a"}, 404, "model"),
        ("/tokenize", {"model": "echo"}, 400, "prompt"),
        ("/tokenize", {"messages": [{"role": "user", "content": 1}]}, 400, "messages"),
        (
            "/tokenize",
            {"messages": MESSAGES, "continue_final_message": True, "add_generation_prompt": True},
            400,
            "continue_final_message",
        ),
        ("/tokenize", {"messages": MESSAGES, "chat_template_kwargs": {"bos_token": ""}}, 400, "chat_template_kwargs"),
        ("/detokenize", {"model": "foo", "tokens": [1]}, 404, "model"),
        ("/detokenize", {"tokens": [999]}, 400, "tokens"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens"),
        ("/detokenize", {"tokens": [1] * 8193}, 400, "tokens"),
        ("/detokenize", {}, 400, "tokens"),
    ],
)
async def test_what_cannot_be_converted_is_named(
    client: httpx.AsyncClient, path: str, body: dict[str, object], status: int, parameter: str
) -> None:
    response = await client.post(path, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, str(status))
    assert error["param"].startswith(parameter)


@pytest.mark.parametrize(("path", "body"), [("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [97]})])
async def test_a_key_is_needed(path: str, body: dict[str, object]) -> None:
    async with client_of(echo_app(keys=[KEY])) as client:
        assert (await client.post(path, json=body)).status_code == 401
        assert (await client.post(path, json=body, headers={"authorization": f"Bearer {KEY}"})).status_code == 200
