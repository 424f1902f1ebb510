"""Large bodies: the number of JSON values, counted without decoding, and whose turn it is to be decoded."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.dialects.http.large_bodies import LARGE_BODY_BYTES, TooManyValues, check_value_count
from tests.support.apps import KEY, client_of, echo_app

texts = st.text(st.sampled_from('a,[{"\\\n é'), max_size=6)
documents = st.recursive(
    st.one_of(st.none(), st.integers(), texts),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=20,
)


def marks(value: Any) -> int:
    """Count what check_value_count counts: arrays, objects, and all items and members after the first."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return 0
    return 1 + max(0, len(value) - 1) + sum(map(marks, value))


@given(documents, st.booleans())
def test_the_limit_is_exact_whatever_texts_contain(document: Any, ascii_only: bool) -> None:
    body = json.dumps(document, ensure_ascii=ascii_only).encode()
    count = marks(document)
    check_value_count(body, count)
    if count:
        with pytest.raises(TooManyValues, match=f"more than {count - 1} JSON values"):
            check_value_count(body, count - 1)


@given(st.binary(max_size=50))
def test_any_bytes_can_be_counted(body: bytes) -> None:
    check_value_count(body, len(body))


async def test_a_client_has_one_turn_whatever_accounts_it_names() -> None:
    body = {"model": "echo", "messages": [{"role": "user", "content": "x" * LARGE_BODY_BYTES}]}
    async with client_of(echo_app(keys=[KEY]), key=KEY) as client:
        sent = [
            client.post("/v4/chat-completions", json=body, headers={"x-selected-account-id": str(number)})
            for number in range(60)
        ]
        statuses = [response.status_code for response in await asyncio.gather(*sent)]
    assert statuses.count(429) > 20, "only some may wait"
