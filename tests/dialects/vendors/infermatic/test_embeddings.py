"""The routes for embeddings, reranking and scores, through the whole app."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from dragoman.core.errors import EngineFailed, ReplicaFailed
from tests.support.apps import client_of, echo_app
from tests.support.embedding_engines import DIMENSIONS, CountingEmbedder
from tests.support.jobs.http_queue_harness import RESPOND_ASYNC, job_when_ended, open_queue_harness
from tests.support.metered import MODEL, AccountFixture, cost, metered_app, sqlite_account

TEXTS = ["abc", "a", "bbbb bbbb"]
TOKENS = sum(map(len, TEXTS))


@asynccontextmanager
async def paying_client(
    account: AccountFixture, folder: Path, engine: CountingEmbedder
) -> AsyncIterator[httpx.AsyncClient]:
    async with metered_app(account, folder, engine=engine) as app, client_of(app, key=account.new_key()) as client:
        yield client


async def test_base64_holds_the_floats_that_the_numbers_stand_for() -> None:
    async with client_of(echo_app(engine=CountingEmbedder())) as client:
        body = {"model": MODEL, "input": TEXTS}
        numbers = (await client.post("/v1/embeddings", json=body)).json()
        encoded = (await client.post("/v1/embeddings", json={**body, "encoding_format": "base64"})).json()
        for one, other in zip(numbers["data"], encoded["data"], strict=True):
            floats = np.frombuffer(base64.b64decode(other["embedding"]), dtype="<f4")
            np.testing.assert_array_equal(np.array(one["embedding"], dtype="<f4"), floats)
        assert [each["index"] for each in numbers["data"]] == [0, 1, 2]
        assert numbers["usage"] == encoded["usage"] == {"prompt_tokens": TOKENS, "total_tokens": TOKENS}


@pytest.mark.parametrize(
    "path", ["/v1/embeddings", "/embeddings", f"/engines/{MODEL}/embeddings", f"/openai/deployments/{MODEL}/embeddings"]
)
async def test_embeddings_have_all_paths_of_litellm(path: str) -> None:
    async with client_of(echo_app(engine=CountingEmbedder())) as client:
        body = {"input": "abc"} if MODEL in path else {"model": MODEL, "input": "abc"}
        assert len((await client.post(path, json=body)).json()["data"][0]["embedding"]) == DIMENSIONS


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank", "/v1/reranking", "/reranking"])
async def test_documents_are_put_in_order_on_all_paths(path: str) -> None:
    async with client_of(echo_app(engine=CountingEmbedder("rerank"))) as client:
        body = {"model": MODEL, "query": "red fox", "documents": ["a dog", "the red fox", "a fox"]}
        assert [each["index"] for each in (await client.post(path, json=body)).json()["results"]] == [1, 2, 0]


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
async def test_pairs_get_scores(path: str) -> None:
    async with client_of(echo_app(engine=CountingEmbedder("rerank"))) as client:
        body = {"model": MODEL, "text_1": "red fox", "text_2": ["a dog", "the red fox"]}
        assert [each["score"] for each in (await client.post(path, json=body)).json()["data"]] == [
            0,
            pytest.approx(0.2),
        ]


async def test_a_model_is_refused_by_name_on_the_routes_that_it_is_not_for() -> None:
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
    embeddings = {"model": MODEL, "input": "Hello"}
    rerank = {"model": MODEL, "query": "a", "documents": ["b"]}
    refusals = []
    for engine, path, body in (
        (None, "/v1/embeddings", embeddings),
        (None, "/v1/rerank", rerank),
        (CountingEmbedder(), "/v1/chat/completions", chat),
        (CountingEmbedder(), "/v1/rerank", rerank),
        (CountingEmbedder("rerank"), "/v1/embeddings", embeddings),
    ):
        async with client_of(echo_app(engine=engine)) as client:
            response = await client.post(path, json=body)
            assert response.status_code == 400
            refusals.append(
                response.json()["error"]["message"].removeprefix("litellm.BadRequestError: The model 'echo' ")
            )
    assert refusals == [
        "has no embeddings; it is for text generation",
        "does not rerank; it is for text generation",
        "generates no text; it is for embeddings",
        "does not rerank; it is for embeddings",
        "has no embeddings; it is for reranking",
    ]


async def test_the_list_of_models_says_what_they_are_for() -> None:
    async with client_of(echo_app(engine=CountingEmbedder())) as client:
        [model] = (await client.get("/v1/models")).json()["data"]
    assert (model["capabilities"], model["max_model_len"], model["embedding_dimensions"]) == (["embeddings"], 100, 4)


async def test_exactly_the_tokens_of_the_inputs_are_held_and_charged(tmp_path: Path) -> None:
    engine = CountingEmbedder()
    engine.gate.clear()
    with sqlite_account(tmp_path, balance=cost(TOKENS, 0)) as account:
        async with (
            metered_app(account, tmp_path, engine=engine) as app,
            client_of(app, key=account.new_key()) as client,
        ):
            request = asyncio.create_task(client.post("/v1/embeddings", json={"model": MODEL, "input": TEXTS}))
            await engine.started.wait()
            assert account.account.holds == cost(TOKENS, 0)
            engine.gate.set()
            assert (await request).status_code == 200
            refused = await client.post("/v1/embeddings", json={"model": MODEL, "input": "a"})
            assert refused.json()["error"]["type"] == "budget_exceeded"
        account.assert_settled()
        [record] = account.usage
        assert (record.prompt_tokens, record.completion_tokens, record.charge) == (TOKENS, 0, cost(TOKENS, 0))


async def test_a_request_is_charged_once_if_an_engine_dies_and_not_at_all_if_all_do(tmp_path: Path) -> None:
    died = ReplicaFailed("The engine stopped")
    engine = CountingEmbedder("embeddings", died, died)
    with sqlite_account(tmp_path) as account:
        async with (
            metered_app(account, tmp_path, engine=engine) as app,
            client_of(app, key=account.new_key()) as client,
        ):
            body = {"model": MODEL, "input": TEXTS}
            assert (await client.post("/v1/embeddings", json=body)).status_code == 200
            assert engine.runs == 3
        account.assert_settled()
        assert [record.charge for record in account.usage] == [cost(TOKENS, 0)]
        failing = CountingEmbedder("embeddings", EngineFailed("A vector is no number"))
        async with (
            metered_app(account, tmp_path, engine=failing) as app,
            client_of(app, key=account.new_key()) as client,
        ):
            assert (await client.post("/v1/embeddings", json=body)).status_code == 500
        account.assert_settled()
        assert sum(record.charge for record in account.usage) == cost(TOKENS, 0)


async def test_an_input_that_is_too_long_is_named_and_costs_nothing(tmp_path: Path) -> None:
    with sqlite_account(tmp_path) as account:
        async with paying_client(account, tmp_path, CountingEmbedder()) as client:
            refused = await client.post("/v1/embeddings", json={"model": MODEL, "input": ["a", "b" * 101]})
        assert refused.status_code == 400
        assert "input[1] has 101 tokens, the model takes 100" in refused.json()["error"]["message"]
        assert refused.json()["error"]["param"] == "input"
        account.assert_settled()
        assert account.usage == []


async def test_a_request_is_answered_once_for_its_key_and_can_be_queued() -> None:
    engine = CountingEmbedder()
    with open_queue_harness() as harness:
        async with harness.server(engine=engine) as server:
            body, key = {"model": MODEL, "input": TEXTS, "encoding_format": "base64"}, {"idempotency-key": "k"}
            first = await server.client.post("/v1/embeddings", json=body, headers=key)
            again = await server.client.post("/v1/embeddings", json=body, headers=key)
            assert first.json() == again.json()
            assert engine.runs == 1
            queued = await server.client.post("/v1/embeddings", json=body, headers=RESPOND_ASYNC)
            assert queued.status_code == 202
            job = await job_when_ended(server.client, queued.json()["url"])
            assert job["result"] == first.json()
        harness.customer.assert_settled()
        assert [record.prompt_tokens for record in harness.customer.usage] == [TOKENS, TOKENS]


async def test_a_client_that_goes_away_stops_its_request() -> None:
    engine = CountingEmbedder()
    engine.gate.clear()
    async with client_of(echo_app(engine=engine)) as client:
        request = asyncio.create_task(client.post("/v1/embeddings", json={"model": MODEL, "input": TEXTS}))
        await engine.started.wait()
        request.cancel()
        await asyncio.wait([request])
    assert engine.cancelled == 1
