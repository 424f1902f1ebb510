"""Scoring texts as evaluation harnesses do: an echoed prompt's log-probabilities, cut at where the context ends."""

import math

import httpx

from tests.support.server import RunningServer

TIMEOUT_SECONDS = 120.0
MODEL = "smollm2-135m-instruct"


def score(client: httpx.Client, prompts: list[str], max_tokens: int = 1) -> list[dict[str, list[object]]]:
    sent = {
        "model": MODEL,
        "prompt": prompts,
        "temperature": 0,
        "max_tokens": max_tokens,
        "logprobs": 1,
        "echo": True,
        "seed": 1,
    }
    response = client.post("/v1/completions", json=sent)
    assert response.status_code == 200, response.text
    return [choice["logprobs"] for choice in sorted(response.json()["choices"], key=lambda choice: choice["index"])]


def continuation(logprobs: dict[str, list[object]], context: str) -> tuple[float, bool]:
    """Return the log-likelihood of the text after the context, without the generated token, and if it is greedy."""
    offsets, tokens = logprobs["text_offset"], logprobs["tokens"]
    start = next(i for i, offset in enumerate(offsets) if isinstance(offset, int) and offset >= len(context))
    total, greedy = 0.0, True
    for token, logprob, top in list(zip(tokens, logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True))[
        start:-1
    ]:
        assert isinstance(logprob, float)
        assert isinstance(top, dict)
        total += logprob
        greedy = greedy and max(top, key=lambda text: top[text]) == token
    return total, greedy


def test_a_likelier_continuation_scores_higher_and_the_greedy_one_is_known(model_server: RunningServer) -> None:
    context = "The capital of France is"
    with httpx.Client(base_url=model_server.url, timeout=TIMEOUT_SECONDS) as client:
        right, wrong = score(client, [f"{context} Paris", f"{context} Oslo"])
    likely, is_greedy = continuation(right, context)
    unlikely, is_greedy_too = continuation(wrong, context)
    assert likely > unlikely + math.log(10)
    assert (is_greedy, is_greedy_too) == (True, False)


def test_texts_scored_together_score_as_alone(model_server: RunningServer) -> None:
    texts = [f"Number {number} is followed by number {number + 1}." for number in range(6)]
    with httpx.Client(base_url=model_server.url, timeout=TIMEOUT_SECONDS) as client:
        together = score(client, texts)
        alone = [score(client, [text])[0] for text in texts]
    differences = []
    for one, other in zip(together, alone, strict=True):
        assert one["tokens"][:-1] == other["tokens"][:-1]
        assert one["token_logprobs"][0] is None
        pairs = zip(one["token_logprobs"][1:-1], other["token_logprobs"][1:-1], strict=True)
        differences += [abs(float(str(left)) - float(str(right))) for left, right in pairs]
    # Sixty tokens are computed by other kernels than ten, which round otherwise: a twentieth of a nat a token is usual.
    assert sum(differences) / len(differences) < 0.1
    assert max(differences) < 0.6


def test_a_text_is_scored_without_generating_a_token(model_server: RunningServer) -> None:
    text = "The capital of France is Paris."
    body = {
        "model": MODEL,
        "prompt": text,
        "max_tokens": 0,
        "echo": True,
        "prompt_logprobs": 1,
        "return_token_ids": True,
    }
    with httpx.Client(base_url=model_server.url, timeout=TIMEOUT_SECONDS) as client:
        [generated], [silent] = score(client, [text]), score(client, [text], max_tokens=0)
        answer = client.post("/v1/completions", json=body).json()
    assert silent["tokens"] == generated["tokens"][:-1]
    assert "".join(map(str, silent["tokens"])) == text
    [choice] = answer["choices"]
    assert (choice["text"], choice["finish_reason"], answer["usage"]["completion_tokens"]) == (text, "length", 0)
    reported = choice["prompt_logprobs"]
    own = [entry[str(token)] for entry, token in zip(reported[1:], choice["prompt_token_ids"][1:], strict=True)]
    assert [entry["decoded_token"] for entry in own] == silent["tokens"][1:]
    # The two are computed apart, but not with other kernels.
    scores = [entry["logprob"] for entry in own]
    assert all(
        abs(one - float(str(other))) < 0.1 for one, other in zip(scores, silent["token_logprobs"][1:], strict=True)
    )
    ranks = [sorted(token["rank"] for token in entry.values()) for entry in reported[1:]]
    assert all(rank[0] == 1 for rank in ranks), "the likeliest token is always reported"
