"""Requests for embeddings are decoded, and vectors become JSON."""

import base64
import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest
from dragoman.core.events import Embedding, Usage
from dragoman.core.limits import MAX_INPUTS
from dragoman.core.request import PromptTruncation, TextPrompt, TokenPrompt
from dragoman.dialects.http.codec import DecodedRequest
from dragoman.dialects.openai.embeddings import decode_embeddings
from dragoman.dialects.openai.vectors import json_numbers
from tests.support.dialects.decode_contexts import decode_context


def decode(**fields: Any) -> DecodedRequest:
    return decode_embeddings(json.dumps({"model": "m", "input": "a", **fields}).encode(), decode_context([]))


@pytest.mark.parametrize(
    ("sent", "inputs"),
    [
        ("a", (TextPrompt("a"),)),
        (["a", "b"], (TextPrompt("a"), TextPrompt("b"))),
        ([1, 2], (TokenPrompt((1, 2)),)),
        ([[1], [2, 3]], (TokenPrompt((1,)), TokenPrompt((2, 3)))),
    ],
)
def test_texts_and_token_ids_are_inputs(sent: Any, inputs: tuple[object, ...]) -> None:
    embedding = decode(input=sent).embedding
    assert embedding is not None
    assert embedding.inputs == inputs


def test_a_request_has_the_options_of_openai_and_vllm() -> None:
    embedding = decode(
        dimensions=64, truncate_prompt_tokens=-1, truncation_side="left", use_activation=False, add_special_tokens=False
    ).embedding
    assert embedding is not None
    assert embedding.inputs == (TextPrompt("a", PromptTruncation(None, 0, "left"), add_special_tokens=False),)
    assert (embedding.dimensions, embedding.activation) == (64, False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input": ""}, "input is empty"),
        ({"input": []}, "input must hold at least one"),
        ({"input": ["a", ""]}, r"input\[1\] is empty"),
        ({"input": [[1], []]}, r"input\[1\] is empty"),
        ({"input": ["a", 1]}, "input must be a string"),
        ({"input": [-1]}, "input must hold token ids"),
        ({"input": ["a"] * (MAX_INPUTS + 1)}, f"input takes at most {MAX_INPUTS}"),
        ({"dimensions": 0}, "dimensions must be at least 1"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens must be -1 or at least 1"),
        ({"encoding_format": "int8"}, "encoding_format must be one of"),
        ({"input_type": "query"}, "input_type is not supported by this server"),
        ({"messages": []}, "messages is not supported by this server"),
        ({"model": None}, "model is required"),
    ],
)
def test_wrong_requests_are_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        decode(**fields)


def answer(values: list[float], **fields: Any) -> Any:
    builder = decode(**fields).builder
    encoded = np.array(values, dtype="<f4").tobytes()
    assert list(builder.feed(Embedding(0, encoded))) == []
    assert list(builder.feed(Usage(3, 0, 0))) == []
    return msgspec.json.decode(builder.build())


def test_an_answer_is_that_of_openai() -> None:
    assert answer([0.5, -1.25]) == {
        "object": "list",
        "model": "m",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1.25]}],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }


@pytest.mark.parametrize(("sent", "kind"), [("float32", "<f4"), ("float16", "<f2")])
def test_base64_holds_little_endian_floats(sent: str, kind: str) -> None:
    [vector] = answer([0.5, -1.25], encoding_format="base64", embed_dtype=sent)["data"]
    assert np.frombuffer(base64.b64decode(vector["embedding"]), dtype=kind).tolist() == [0.5, -1.25]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=20))
def test_numbers_give_the_same_floats(values: list[float]) -> None:
    floats = np.array(values, dtype="<f4")
    written = msgspec.json.encode(json_numbers(floats.tobytes()))
    np.testing.assert_array_equal(np.array(msgspec.json.decode(written), dtype="<f4"), floats)


@given(st.floats(-1, 1, width=32).filter(lambda value: abs(value) > 1e-6))
def test_numbers_have_no_more_digits_than_they_need(value: float) -> None:
    [number] = json_numbers(np.array([value], dtype="<f4").tobytes())
    assert number == float(f"{value:.9g}")
