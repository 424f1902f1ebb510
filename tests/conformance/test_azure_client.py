"""OpenAI's client for Azure, which has paths, a query and a key header of its own."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import httpx2
import openai
import pytest
from openai import AsyncAzureOpenAI, DefaultAsyncHttpxClient

from tests.support.apps import client_of, echo_app
from tests.support.dialects.openai_clients import openai_client
from tests.support.embedding_engines import CountingEmbedder

KEY = "sk-azure-key-of-16"


@pytest.fixture
async def client() -> AsyncIterator[AsyncAzureOpenAI]:
    async with DefaultAsyncHttpxClient(transport=httpx2.ASGITransport(echo_app(keys=[KEY]))) as http:
        yield _azure_client(http, KEY)


def _azure_client(http: httpx2.AsyncClient, key: str) -> AsyncAzureOpenAI:
    return AsyncAzureOpenAI(
        azure_endpoint="http://server", api_version="2024-10-21", api_key=key, http_client=http, max_retries=0
    )


async def test_a_deployment_answers_chats_texts_and_responses(client: AsyncAzureOpenAI) -> None:
    chat = await client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "Hello"}])
    text = await client.completions.create(model="acme/parrot", prompt="Hello")
    response = await client.responses.create(model="echo", input="Hello")
    counted = await client.responses.input_tokens.count(model="echo", input="Hello")
    assert (chat.choices[0].message.content, text.choices[0].text, response.output_text) == ("Hello",) * 3
    assert response.usage is not None
    assert response.usage.input_tokens == counted.input_tokens


async def test_a_deployment_embeds() -> None:
    app = echo_app(keys=[KEY], engine=CountingEmbedder())
    async with DefaultAsyncHttpxClient(transport=httpx2.ASGITransport(app)) as http:
        vectors = await _azure_client(http, KEY).embeddings.create(model="echo", input=["abc", "a"])
    assert len(vectors.data) == 2


async def test_models_are_listed(client: AsyncAzureOpenAI) -> None:
    [model] = (await client.models.list()).data
    assert (model.id, (await client.models.retrieve("acme/parrot")).id) == ("echo", "acme/parrot")


async def test_a_wrong_key_is_refused() -> None:
    async with DefaultAsyncHttpxClient(transport=httpx2.ASGITransport(echo_app(keys=[KEY]))) as http:
        client = _azure_client(http, "sk-another-key-of-16")
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "Hello"}])
        with pytest.raises(openai.AuthenticationError):
            await client.responses.create(model="echo", input="Hello")


@pytest.mark.parametrize("path", ["/openai/v1", "/v1"])
async def test_azures_newer_paths_take_its_key_header_too(path: str) -> None:
    async with client_of(echo_app(keys=[KEY], v1_dialect="openai")) as client:
        headers, query = {"api-key": KEY}, {"api-version": "preview"}
        bodies: dict[str, dict[str, Any]] = {
            "chat/completions": {"messages": [{"role": "user", "content": "Hello"}]},
            "responses": {"input": "Hello"},
        }
        for route, body in bodies.items():
            response = await client.post(
                f"{path}/{route}", json={"model": "echo", **body}, headers=headers, params=query
            )
            assert response.status_code == httpx.codes.OK, response.text


async def test_a_bearer_key_precedes_azures(client: AsyncAzureOpenAI) -> None:
    async for other in openai_client(echo_app(keys=[KEY]), "/openai/v1", key=KEY):
        chat = await other.with_options(default_headers={"api-key": "sk-another"}).chat.completions.create(
            model="echo", messages=[{"role": "user", "content": "Hello"}]
        )
        assert chat.choices[0].message.content == "Hello"
