"""Chunks of text, which are encoded once for each choice and then filled in."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.events import Delta, Event, Finished, PromptTokens, TokenLogprobs, Usage
from dragoman.dialects.http.response_builder import BaseResponseBuilder
from dragoman.dialects.vendors.infermatic.codec import decode_chat, decode_text
from tests.support.dialects.decode_contexts import decode_context

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "logprobs": True, "stream": True, "n": 2}
TEXT = {"model": "m", "prompt": "Once", "logprobs": 1, "stream": True, "n": 2}


def builder(kind: str, **fields: object) -> BaseResponseBuilder:
    decode, body = (decode_chat, CHAT) if kind == "chat" else (decode_text, TEXT)
    built = decode(json.dumps({**body, **fields}).encode(), decode_context()).builder
    assert isinstance(built, BaseResponseBuilder)
    return built


def frames(built: BaseResponseBuilder, events: list[Event]) -> list[bytes]:
    sent = [sse.data for event in events for sse in built.feed(event)]
    return [*sent, built.build()]


deltas = st.builds(
    lambda index, text, has_logprobs: Delta(
        index, text, [1], [TokenLogprobs(1, text.encode(), -0.5, [])] if has_logprobs and text else []
    ),
    st.integers(0, 1),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    st.booleans(),
)


@pytest.mark.parametrize("kind", ["chat", "text"])
@given(answer=st.lists(deltas, max_size=12))
def test_a_chunk_that_is_filled_in_is_the_one_that_would_be_encoded(kind: str, answer: list[Delta]) -> None:
    events: list[Event] = [*answer, Finished(0, "stop"), Finished(1, "length"), Usage(1, len(answer), 0)]
    encoded = builder(kind)
    encoded.text_chunks_are_alike = False
    assert frames(builder(kind), events) == frames(encoded, events)


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_each_chunk_with_a_report_of_its_tokens_is_encoded(kind: str) -> None:
    built = builder(kind, return_token_ids=True, logprobs=None, n=1)
    sent = frames(
        built, [PromptTokens(0, [4]), Delta(0, "a", [5]), Delta(0, "b", [6]), Finished(0, "stop"), Usage(1, 2, 0)]
    )
    assert [json.loads(frame)["choices"][0].get("token_ids") for frame in sent[-4:-2]] == [[5], [6]]
