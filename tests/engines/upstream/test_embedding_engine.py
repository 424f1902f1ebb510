"""Upstreams that compute embeddings, over scripted servers."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import numpy as np
import pytest

from dragoman.core.embedding import EmbeddingRequest, ModelKind, TextPair
from dragoman.core.errors import BadRequest, EngineFailed, ReplicaFailed
from dragoman.core.events import Embedding, Event, Usage
from dragoman.core.request import PromptTruncation, TextPrompt, TokenPrompt
from dragoman.engines.upstream.embedding_engine import UpstreamEmbeddingEngine
from dragoman.engines.upstream.http_client import UpstreamClient
from dragoman.engines.upstream.http_request import UpstreamAddress
from dragoman.engines.upstream.kinds import KindName
from tests.support.scripted_upstream import ScriptedRequest, ScriptedUpstream, response, running_upstream
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

TEXTS = EmbeddingRequest(model="m", inputs=(TextPrompt("first"), TextPrompt("second")))

Answer = Callable[[dict[str, Any]], object]


def encoded(*values: float) -> str:
    return base64.b64encode(np.array(values, dtype="<f4").tobytes()).decode()


@contextlib.asynccontextmanager
async def engine_of(
    answer: Answer, *, model_kind: ModelKind = "embeddings", kind: KindName = "vllm"
) -> AsyncGenerator[UpstreamEmbeddingEngine]:
    """Yield an engine whose server answers the document that `answer` makes of a request's body."""

    async def respond(request: ScriptedRequest) -> object:
        document = answer(json.loads(request.body))
        await request.send(response(200, json.dumps(document).encode(), "content-type: application/json"))
        return True

    async with running_upstream(ScriptedUpstream(respond)) as url, asyncio.timeout(TEST_TIMEOUT_SECONDS):
        client = UpstreamClient(UpstreamAddress.parse(url))
        engine = UpstreamEmbeddingEngine("m/0", client, model="theirs", model_kind=model_kind, kind=kind)
        try:
            yield engine
        finally:
            await engine.close()


async def collect(engine: UpstreamEmbeddingEngine, request: EmbeddingRequest = TEXTS) -> list[Event]:
    return [event async for event in engine.embed(request)]


def values_of(events: list[Event]) -> list[list[float]]:
    return [np.frombuffer(each.values, dtype="<f4").tolist() for each in events if isinstance(each, Embedding)]


async def test_vectors_in_either_encoding_come_in_the_order_of_the_inputs() -> None:
    def answer(body: dict[str, Any]) -> object:
        assert body == {"model": "theirs", "input": ["first", "second"], "encoding_format": "base64", "dimensions": 2}
        data = [{"index": 1, "embedding": [0.5, 1]}, {"index": 0, "embedding": encoded(2, 3)}]
        return {"data": data, "usage": {"prompt_tokens": 7, "total_tokens": 7}}

    async with engine_of(answer) as engine:
        request = EmbeddingRequest(model="m", inputs=TEXTS.inputs, dimensions=2)
        events = await collect(engine, request)
    assert values_of(events) == [[2, 3], [0.5, 1]]
    assert events[-1] == Usage(7, 0, 0, source="upstream")


@pytest.mark.parametrize("tokens", [-7, 2**53, 10**30])
async def test_a_usage_that_no_request_has_is_not_believed(tokens: int) -> None:
    data = [{"index": index, "embedding": [1, 2]} for index in range(2)]

    def answer(_body: dict[str, Any]) -> object:
        return {"data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}

    async with engine_of(answer) as engine:
        *_, usage = await collect(engine)
    assert isinstance(usage, Usage)
    assert (usage.source, usage.prompt_tokens < 100) == ("estimated", True)


async def test_options_are_sent_to_servers_that_have_them_and_refused_by_name_for_others() -> None:
    inputs = (TokenPrompt((1, 2), PromptTruncation(None, 0, "right")),)
    request = EmbeddingRequest(model="m", inputs=inputs, activation=False)

    def answer(body: dict[str, Any]) -> object:
        options = {"truncate_prompt_tokens": -1, "truncation_side": "right", "use_activation": False}
        assert body == {"model": "theirs", "input": [[1, 2]], "encoding_format": "base64", **options}
        return {"data": [{"index": 0, "embedding": encoded(1)}]}

    async with engine_of(answer) as engine:
        assert (await collect(engine, request))[-1] == Usage(2, 0, 0, source="estimated")
    async with engine_of(answer, kind="openai") as engine:
        with pytest.raises(BadRequest, match="does not support truncate_prompt_tokens"):
            await collect(engine, request)


async def test_documents_are_ranked_with_one_request_for_each_query() -> None:
    bodies = []

    def answer(body: dict[str, Any]) -> object:
        bodies.append(body)
        results = [{"index": index, "relevance_score": len(text)} for index, text in enumerate(body["documents"])]
        return {"results": results[::-1], "usage": {"total_tokens": 5}}

    pairs = (TextPair("q", "a"), TextPair("other", "bbb"), TextPair("q", "cc"))
    async with engine_of(answer, model_kind="rerank") as engine:
        events = await collect(engine, EmbeddingRequest(model="m", inputs=pairs))
    assert values_of(events) == [[1], [3], [2]]
    assert events[-1] == Usage(10, 0, 0, source="upstream")
    assert [(body["query"], body["documents"]) for body in bodies] == [("q", ["a", "cc"]), ("other", ["bbb"])]


@pytest.mark.parametrize(
    "data",
    [
        [],
        [{"index": 0, "embedding": [1]}],
        [{"index": 0, "embedding": [1]}, {"index": 1, "embedding": []}],
        [{"index": 0, "embedding": [1]}, {"index": 1, "embedding": "no base64!"}],
        [{"index": 0, "embedding": [1]}, {"index": 1, "embedding": encoded(float("nan"))}],
    ],
)
async def test_a_malformed_response_may_be_answered_by_another_replica(data: object) -> None:
    async with engine_of(lambda _body: {"data": data}) as engine:
        with pytest.raises(ReplicaFailed, match="malformed"):
            await collect(engine)


async def test_a_server_that_cannot_be_reached_may_be_replaced_by_another() -> None:
    async with engine_of(lambda _body: None) as engine:
        pass
    with pytest.raises(EngineFailed):
        await collect(engine)


@pytest.mark.parametrize(
    "usage", [None, {"prompt_tokens": None}, {"prompt_tokens": 0}, {"prompt_tokens": -3}, {"prompt_tokens": 2**60}]
)
async def test_inputs_that_the_upstream_does_not_count_are_estimated(usage: object) -> None:
    data = [{"index": index, "embedding": encoded(1)} for index in range(2)]
    async with engine_of(lambda _: {"data": data, "usage": usage}) as engine:
        assert (await collect(engine))[-1] == Usage(4, 0, 0, source="estimated")
