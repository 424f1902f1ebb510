"""A seed gives the same text in every run, with and without other requests."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from tests.support.server import RunningServer

TIMEOUT_SECONDS = 120.0
MODEL = "shallow"
OTHERS = 8


def answer(client: httpx.Client, question: str, **fields: Any) -> Any:
    messages = [{"role": "user", "content": question}]
    sent = {"model": MODEL, "messages": messages, "temperature": 1.2, "max_tokens": 24, **fields}
    response = client.post("/api/v1/chat/completions", json=sent)
    assert response.status_code == 200, response.text
    return response.json()


def test_a_seed_gives_the_same_text_alone_and_among_others(shallow_server: RunningServer) -> None:
    with (
        httpx.Client(base_url=shallow_server.url, timeout=TIMEOUT_SECONDS) as client,
        ThreadPoolExecutor(OTHERS) as pool,
    ):
        alone = answer(client, "Tell me a story.", seed=7)
        others = [pool.submit(answer, client, f"Tell me about the number {n}.") for n in range(OTHERS)]
        among = answer(client, "Tell me a story.", seed=7)
        for other in others:
            other.result()
        another_seed = answer(client, "Tell me a story.", seed=8)
    text = alone["choices"][0]["message"]["content"]
    assert among["choices"][0]["message"]["content"] == text
    assert another_seed["choices"][0]["message"]["content"] != text
    # The first answer may precede the end of reading the model's files.
    assert another_seed["system_fingerprint"] == among["system_fingerprint"] is not None
