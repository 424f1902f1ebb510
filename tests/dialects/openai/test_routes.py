"""Where OpenAI's dialect answers, and that OpenAI's own client works there."""

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from dragoman.server.dialects import documented_operations
from tests.support.apps import client_of, echo_app
from tests.support.dialects.openai_clients import openai_client
from tests.support.embedding_engines import CountingEmbedder

BODY = {"model": "echo", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(params=["prefix", "host", "v1"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's client before each of the places where the dialect answers."""
    match request.param:
        case "prefix":
            app, path, host = echo_app(), "/openai/v1", "server"
        case "host":
            app, path, host = echo_app(hosts={"openai.example": "openai"}), "/v1", "openai.example"
        case _:
            app, path, host = echo_app(v1_dialect="openai"), "/v1", "server"
    async for client in openai_client(app, path, host):
        yield client


async def test_openais_client_gets_chats_texts_and_models(client: AsyncOpenAI) -> None:
    chat = await client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "Hello"}])
    text = await client.completions.create(model="echo", prompt="Hello", echo=True)
    [model] = (await client.models.list()).data
    assert (chat.choices[0].message.content, text.choices[0].text) == ("Hello", "HelloHello")
    assert (model.id, (await client.models.retrieve("acme/parrot")).id) == ("echo", "acme/parrot")


@pytest.mark.parametrize(("path", "v1_dialect"), [("/openai/v1", "infermatic"), ("/v1", "openai")])
async def test_openais_client_gets_embeddings(path: str, v1_dialect: str) -> None:
    async for client in openai_client(echo_app(engine=CountingEmbedder(), v1_dialect=v1_dialect), path):
        default = await client.embeddings.create(model="echo", input=["abc", "a"])
        numbers = await client.embeddings.create(model="echo", input=["abc", "a"], encoding_format="float")
        assert [each.embedding for each in default.data] == [pytest.approx(each.embedding) for each in numbers.data]
        assert (default.usage.prompt_tokens, default.usage.total_tokens) == (4, 4)
        with pytest.raises(openai.BadRequestError, match=r"input\[1\] is empty"):
            await client.embeddings.create(model="echo", input=["abc", ""])
        with pytest.raises(openai.BadRequestError, match="generates no text; it is for embeddings"):
            await client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "Hello"}])


async def test_openais_client_raises_its_own_errors(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "Hi"}])
    assert (unknown.value.code, unknown.value.type) == ("model_not_found", "invalid_request_error")
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("gpt-9")


async def test_infermatic_answers_under_v1_unless_the_setting_says_otherwise() -> None:
    for app, status in ((echo_app(), 400), (echo_app(v1_dialect="openai"), 404)):
        async with client_of(app) as client:
            assert (await client.post("/v1/chat/completions", json=BODY | {"model": "gpt-9"})).status_code == status


async def test_infermatics_other_paths_keep_answering_beside_openais() -> None:
    async with client_of(echo_app(v1_dialect="openai")) as client:
        for prefix in ("", "/openai/deployments/echo", "/engines/echo"):
            response = await client.post(f"{prefix}/chat/completions", json=BODY)
            assert response.json()["choices"][0]["message"]["content"] == "Hello"
            assert "x-litellm-call-id" in response.headers


@pytest.mark.parametrize("v1_dialect", ["infermatic", "openai"])
def test_each_path_is_documented_once(v1_dialect: str) -> None:
    operations: list[Any] = [each for listed in documented_operations(v1_dialect).values() for each in listed]
    assert len({(each.method, each.path) for each in operations}) == len(operations)
    tags = {each.path: tag for tag, listed in documented_operations(v1_dialect).items() for each in listed}
    assert tags["/v1/chat/completions"] == v1_dialect
    assert tags["/openai/v1/models"] == "openai"
