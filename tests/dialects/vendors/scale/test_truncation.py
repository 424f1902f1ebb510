"""Room for the answer: conversations that are truncated, and prompts that are rejected."""

import httpx
import pytest

from dragoman.dialects.vendors.scale.routes import TRIMMED_HEADER
from tests.support.dialects.scale_app import (
    CHAT,
    CONTEXT,
    DEPLOYMENT_CHAT,
    DEPLOYMENT_TEXT,
    HELLO,
    TEXT,
    detail_of,
    response_text,
)


def history(*turns: tuple[str, int]) -> list[dict[str, str]]:
    """Return messages with contents of these lengths; the echo engine counts `role: content`, joined by line breaks."""
    return [{"role": role, "content": "x" * length} for role, length in turns]


async def test_a_prompt_that_leaves_too_little_room_is_rejected(client: httpx.AsyncClient) -> None:
    for stream in (True, False):
        for path, sent, tokens in (
            (DEPLOYMENT_CHAT, HELLO | {"prompt": "x" * 895, "max_tokens": 100}, 901),
            (DEPLOYMENT_TEXT, HELLO | {"prompt": "x" * 901, "max_tokens": 100}, 901),
            (TEXT, HELLO | {"prompt": "x" * 901, "model_parameters": {"max_tokens": 100}}, 901),
            (CHAT, HELLO | {"messages": history(("user", 895)), "model_parameters": {"max_tokens": 100}}, 901),
        ):
            assert detail_of(await client.post(path, json=sent | {"stream": stream}), 400) == (
                f"The prompt has {tokens} tokens and max_tokens is 100; the model's context length is {CONTEXT} tokens"
            )


async def test_a_prompt_that_leaves_exactly_enough_room_is_answered(client: httpx.AsyncClient) -> None:
    response = await client.post(DEPLOYMENT_TEXT, json=HELLO | {"prompt": "x" * 900, "max_tokens": 100})
    assert response_text(response) == "x" * 100
    whole = await client.post(DEPLOYMENT_TEXT, json=HELLO | {"prompt": "x" * (CONTEXT - 1)})
    assert (response_text(whole), whole.json()["finish_reason"]) == ("x", "length")


async def test_a_prompt_without_room_for_one_token_is_rejected(client: httpx.AsyncClient) -> None:
    for path in (DEPLOYMENT_CHAT, DEPLOYMENT_TEXT):
        detail = detail_of(await client.post(path, json=HELLO | {"prompt": "x" * CONTEXT}), 400)
        assert f"the model's context length is {CONTEXT} tokens" in detail
    huge = HELLO | {"max_tokens": 2**80}
    assert "max_tokens is 9223372036854775807" in detail_of(await client.post(DEPLOYMENT_CHAT, json=huge), 400)


async def test_a_history_that_does_not_fit_is_truncated_and_reported_in_a_header(client: httpx.AsyncClient) -> None:
    sent = {
        "chat_history": history(("system", 10), ("user", 400), ("assistant", 100), ("user", 300), ("assistant", 100)),
        "prompt": "Hello",
    }
    for stream in (False, True):
        response = await client.post(DEPLOYMENT_CHAT, json=sent | {"stream": stream})
        assert response.headers[TRIMMED_HEADER] == "2"
    remaining = len("system: \nuser: \nassistant: \nuser: Hello") + 10 + 300 + 100
    assert f'"prompt_tokens":{remaining},' in response.text


async def test_a_conversation_of_the_sibling_route_is_truncated_too(client: httpx.AsyncClient) -> None:
    sent = {"model": "echo", "messages": history(("user", 800), ("assistant", 10), ("user", 5)), "instructions": "Hm"}
    response = await client.post(CHAT, json=sent)
    assert (response_text(response), response.headers[TRIMMED_HEADER]) == ("xxxxx", "2")
    assert response.json()["token_usage"]["prompt"] == len("system: Hm\nuser: xxxxx")


@pytest.mark.parametrize(
    ("max_tokens", "length", "dropped"),
    [(None, 782, None), (None, 783, "1"), (300, 682, None), (300, 683, "1"), (1, 981, None), (1, 982, "1")],
)
async def test_max_tokens_or_a_fifth_of_the_context_is_reserved(
    client: httpx.AsyncClient, max_tokens: int | None, length: int, dropped: str | None
) -> None:
    overhead = len("user: \nuser: Hello")
    sent = {"chat_history": history(("user", length)), "prompt": "Hello", "max_tokens": max_tokens}
    response = await client.post(DEPLOYMENT_CHAT, json=sent)
    assert (response_text(response), response.headers.get(TRIMMED_HEADER)) == ("Hello"[:max_tokens], dropped)
    assert response.json()["prompt_tokens"] == (len("user: Hello") if dropped else length + overhead)


async def test_the_prompt_alone_may_use_the_reserved_tokens(client: httpx.AsyncClient) -> None:
    sent = {"chat_history": history(("system", 10), ("user", 10)), "prompt": "x" * 900}
    response = await client.post(DEPLOYMENT_CHAT, json=sent)
    assert (response.headers[TRIMMED_HEADER], response.json()["prompt_tokens"]) == ("2", 906)
    assert response.json()["finish_reason"] == "length"


async def test_a_refused_prompt_reports_its_size_and_no_truncation(client: httpx.AsyncClient) -> None:
    sent = {"chat_history": history(("user", 500), ("assistant", 9)), "prompt": "x" * 500, "max_tokens": 600}
    response = await client.post(DEPLOYMENT_CHAT, json=sent)
    assert "The prompt has 506 tokens and max_tokens is 600" in detail_of(response, 400)
    assert TRIMMED_HEADER not in response.headers


async def test_as_few_messages_as_possible_are_dropped(client: httpx.AsyncClient) -> None:
    for pairs in range(30):
        sent = {"chat_history": history(*[("user", 20), ("assistant", 20)] * pairs), "prompt": "Hello"}
        response = await client.post(DEPLOYMENT_CHAT, json=sent)
        tokens = response.json()["prompt_tokens"]
        pair = len("user: \nassistant: \n") + 40
        assert tokens <= CONTEXT * 4 // 5
        dropped = int(response.headers.get(TRIMMED_HEADER, 0))
        assert tokens == (pairs - dropped // 2) * pair + len("user: Hello")
        assert not dropped or tokens + pair > CONTEXT * 4 // 5
