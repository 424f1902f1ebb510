"""Requests for reranking and scores are decoded, and scores become answers."""

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from dragoman.core.embedding import ModelKind, TextPair
from dragoman.core.errors import BadRequest
from dragoman.core.events import Embedding, Usage
from dragoman.core.models import ServedModel
from dragoman.core.request import PromptTruncation, TextPrompt
from dragoman.dialects.http.codec import DecodedRequest
from dragoman.dialects.openai.reranking import decode_rerank, decode_score
from tests.support.dialects.decode_contexts import ID, decode_context

DOCUMENTS = ["low", "high", "equal", "also equal"]
SCORES = [0.25, 0.75, 0.5, 0.5]


def rerank(**fields: Any) -> DecodedRequest:
    body = {"model": "m", "query": "q", "documents": DOCUMENTS} | fields
    return decode_rerank(json.dumps(body).encode(), decode_context([]))


def score(kind: ModelKind = "rerank", **fields: Any) -> DecodedRequest:
    model = ServedModel(id="m", aliases=(), context_length=None, kind=kind)
    return decode_score(json.dumps({"model": "m"} | fields).encode(), decode_context([model]))


def answer(decoded: DecodedRequest, vectors: list[list[float]]) -> Any:
    for index, values in enumerate(vectors):
        assert list(decoded.builder.feed(Embedding(index, np.array(values, dtype="<f4").tobytes()))) == []
    assert list(decoded.builder.feed(Usage(9, 0, 0))) == []
    return msgspec.json.decode(decoded.builder.build())


def scores_of(decoded: DecodedRequest) -> Any:
    return answer(decoded, [[value] for value in SCORES])


def test_documents_come_best_first_and_equal_ones_in_their_order() -> None:
    assert scores_of(rerank(documents=["low", {"text": "high"}, "equal", "also equal"])) == {
        "id": f"rerank-{ID}",
        "object": "list",
        "model": "m",
        "results": [
            {"index": 1, "relevance_score": 0.75, "document": {"text": "high"}},
            {"index": 2, "relevance_score": 0.5, "document": {"text": "equal"}},
            {"index": 3, "relevance_score": 0.5, "document": {"text": "also equal"}},
            {"index": 0, "relevance_score": 0.25, "document": {"text": "low"}},
        ],
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
    }


@pytest.mark.parametrize(
    ("top_n", "indices"), [(2, [1, 2]), (9, [1, 2, 3, 0]), (0, [1, 2, 3, 0]), (None, [1, 2, 3, 0])]
)
def test_top_n_of_none_and_0_is_all(top_n: int | None, indices: list[int]) -> None:
    results = scores_of(rerank(top_n=top_n, return_documents=False))["results"]
    assert [result["index"] for result in results] == indices
    assert not any("document" in result for result in results)


def test_texts_get_a_plain_array() -> None:
    body = {"model": "m", "query": "q", "texts": DOCUMENTS, "return_text": True}
    decoded = decode_rerank(json.dumps(body).encode(), decode_context([]))
    assert scores_of(decoded)[0] == {"index": 1, "score": 0.75, "text": "high"}


@pytest.mark.parametrize(
    ("fields", "activation"),
    [({}, True), ({"raw_scores": True}, False), ({"use_activation": False}, False)],
)
def test_scores_are_probabilities_unless_logits_are_wanted(fields: dict[str, Any], activation: bool) -> None:
    embedding = rerank(**fields).embedding
    assert embedding is not None
    assert embedding.activation == activation


def test_only_documents_are_shortened() -> None:
    embedding = rerank(truncate_prompt_tokens=64).embedding
    assert embedding is not None
    assert embedding.inputs[0] == TextPair("q", "low", PromptTruncation(64, 0, "right"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"top_n": -1}, "top_n must be at least 0"),
        ({"documents": None}, "documents is required"),
        ({"documents": []}, "documents must have at least 1"),
        ({"documents": ["a"] * 1001}, "documents must have at most 1000"),
        ({"query": ""}, "query must have at least 1"),
    ],
)
def test_wrong_requests_are_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        rerank(**fields)


def test_scores_are_those_of_pairs_or_of_one_text_with_all() -> None:
    pairwise = score(text_1=["a", "b"], text_2=["c", "d"]).embedding
    one_with_all = score(queries="a", documents=["c", "d"]).embedding
    assert pairwise is not None
    assert one_with_all is not None
    assert pairwise.inputs == (TextPair("a", "c"), TextPair("b", "d"))
    assert one_with_all.inputs == (TextPair("a", "c"), TextPair("a", "d"))


def test_the_score_of_a_model_for_embeddings_is_a_cosine() -> None:
    decoded = score("embeddings", data_1="a", data_2=["b", "c"])
    assert decoded.embedding is not None
    assert decoded.embedding.inputs == tuple(map(TextPrompt, "abac"))
    scores = answer(decoded, [[1, 0], [0.6, 0.8], [1, 0], [0, 1]])["data"]
    assert [(each["index"], each["score"]) for each in scores] == [(0, pytest.approx(0.6)), (1, 0)]
    context = decode_context(None, **decoded.extra_arguments)
    restored = decode_score(b'{"model":"m","data_1":"a","data_2":["b","c"]}', context)
    assert restored.embedding == decoded.embedding


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_1": ["a", "b"], "text_2": ["c"] * 3}, "text_1 must be one text or as many as text_2, got 2 and 3"),
        ({"text_1": "a"}, "text_2 is required"),
        ({"text_1": "a", "queries": "a", "text_2": "b"}, "text_1 and queries are the same field"),
    ],
)
def test_texts_that_form_no_pairs_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        score(**fields)
