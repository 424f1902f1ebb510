from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.apps import client_of, echo_app

MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(echo_app()) as client:
        yield client


async def test_message_counts_match_the_chats_usage(client: httpx.AsyncClient) -> None:
    counted = (await client.post("/utils/token_counter", json={"model": "acme/parrot", "messages": MESSAGES})).json()
    answer = (await client.post("/v1/chat/completions", json={"model": "echo", "messages": MESSAGES})).json()
    assert counted == {
        "total_tokens": answer["usage"]["prompt_tokens"],
        "request_model": "acme/parrot",
        "model_used": "echo",
        "tokenizer_type": "huggingface_tokenizer",
    }


async def test_the_prompt_overrides_messages(client: httpx.AsyncClient) -> None:
    sent = {"model": "echo", "prompt": "abc", "messages": MESSAGES}
    assert (await client.post("/utils/token_counter", json=sent)).json()["total_tokens"] == 3


@pytest.mark.parametrize(
    ("body", "status", "answer"),
    [
        ({"model": "echo"}, 400, {"detail": "prompt or messages must be provided"}),
        ({}, 422, {"detail": [{"loc": ["body", "model"], "msg": "Field required", "type": "missing"}]}),
        (
            {"model": "foo", "prompt": "a"},
            404,
            {
                "error": {
                    "message": "Model 'foo' not found",
                    "type": "not_found_error",
                    "param": "model",
                    "code": "404",
                }
            },
        ),
    ],
)
async def test_its_errors_have_their_own_shapes(
    client: httpx.AsyncClient, body: dict[str, str], status: int, answer: object
) -> None:
    response = await client.post("/utils/token_counter", json=body)
    assert (response.status_code, response.json()) == (status, answer)
