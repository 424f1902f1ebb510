"""Malformed request bodies, and nearly valid ones that reach deep into the server."""

import json
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"

CONTENT_TYPES = ["application/json", "application/x-www-form-urlencoded", "text/plain; charset=utf-16", "image/png", ""]

MEGABYTES_10 = 10**7

SCALARS: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 16, 17, 40.0, 40.5, -0.0, 0.5, 1.5, 1e-5, 5e-324, 1e-300, 1e308, -1e308),
    *(2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**30, -(10**30), 10**400),
    *(float("nan"), float("inf"), float("-inf")),
    *("", " ", "a", "1", "NaN", "null", "true", "\x00", "\n", "\ud800", "\udfff\ud800", "𝔘𝔫𝔦", "e\u0301", "\u202e"),
    *("<|im_start|>", "<|im_end|>", "<|im_start|>system\n", "{{ 7 * 7 }}", "{% for %}", "../../etc/passwd", "'; --"),
]

IN_RANGE: dict[str, list[Any]] = {
    "temperature": [0, 1e-6, 1e-5, 0.7, 1, 2],
    "top_p": [0, 1e-9, 0.5, 1],
    "top_k": [-1, 0, 1, 40, 2**40],
    "min_p": [0, 0.1, 1],
    "repetition_penalty": [5e-324, 1e-300, 0.5, 1, 1.2, 1e300],
    "presence_penalty": [-2, 0, 2],
    "frequency_penalty": [-2, 0, 2],
    "logit_bias": [{}, {"0": -100}, {"7": 100}, {"999999999": 1}, {str(token): 1 for token in range(1000)}],
    "n": [1, 2, 16],
    "best_of": [1, 2],
    "seed": [-1, 0, 2**64 - 1],
    "stop": ["a", ["a", "\n"], ["é" * 256] * 64],
    "stop_token_ids": [[0], [256], [2**31], list(range(64))],
    "max_tokens": [1, 4],
    "max_completion_tokens": [1, 4],
    "min_tokens": [0, 1, 4],
    "ignore_eos": [True],
    "include_stop_str_in_output": [True],
    "skip_special_tokens": [False],
    "spaces_between_special_tokens": [False],
    "stream": [True],
    "stream_options": [{"include_usage": True}],
    "priority": [0, 255, 10**9],
    "echo": [True],
    "prompt": [["a", "b"], [1, 2], [[1], [2, 3]], ["a"] * 128, [[]], [""], [0] * 9000],
    "messages": [[], [{}], [{"role": "tool", "content": "a"}], [{"role": "user", "content": ""}]],
    "logprobs": [True, 5],
    "top_logprobs": [0, 20],
    "tools": [[{"type": "function"}], [{"type": "function", "function": {"name": "f", "parameters": {"a": 10**30}}}]],
    "tool_choice": ["none", "auto", "required", {"type": "function", "function": {"name": "f"}}],
    "parallel_tool_calls": [False],
    "response_format": [{"type": "text"}, {"type": "json_object"}, {"type": "json_schema", "json_schema": {}}],
    "structured_outputs": [{}, {"regex": "("}, {"choice": ["a", "b"]}, {"json": {"type": 5}}, {"json": "{}"}],
    "guided_json": [{}, "{}", "["],
    "guided_regex": ["", "a+", "("],
    "guided_choice": [["a"], ["("]],
    "guided_grammar": ["", "start: 5"],
    "reasoning_effort": ["none", "high"],
    "chat_template": ["", "{{ messages }}", "{% for %}"],
    "chat_template_kwargs": [{}, {"messages": []}, {"x": 10**30}],
    "suffix": ["", "a"],
    "user": ["a"],
    "allowed_token_ids": [[0], [1, 2, 3], list(range(1000)), [2**31]],
    "bad_words": [["a"], [" the", "\n"], ["é" * 256]],
    "truncate_prompt_tokens": [-1, 1, 5, 10**9],
    "truncation_side": ["left", "right"],
    "prompt_logprobs": [0, 20],
    "return_token_ids": [True],
    "return_tokens_as_token_ids": [True],
    "cache_salt": ["a"],
    "functions": [[{"name": "f"}], [{"name": "f", "parameters": {"type": 5}}]],
    "function_call": ["none", "auto", {"name": "f"}],
    "use_beam_search": [False],
    "include_reasoning": [False],
}


class HostileRequest(NamedTuple):
    """A body and the path to post it to."""

    path: str
    body: bytes
    content_type: str


def hostile_requests(seed: int, count: int, *, model: str, max_tokens: int) -> Iterator[HostileRequest]:
    """Yield `count` requests, the same for equal seeds. Answered ones have at most `max_tokens` per choice."""
    rng = random.Random(seed)
    for number in range(count):
        path = rng.choice((CHAT, TEXT))
        if number % 2000 == 1999:
            body = _huge_body(rng, model)
        elif rng.random() < 0.75:
            body = json.dumps(_mutated_body(rng, model, max_tokens), ensure_ascii=rng.random() < 0.9).encode(
                errors="surrogatepass"
            )
        else:
            body = _malformed_body(rng, json.dumps(_valid_body(rng, model)).encode())
        yield HostileRequest(path, body, rng.choice(CONTENT_TYPES))


def _valid_body(rng: random.Random, model: str) -> dict[str, Any]:
    """Return a valid body for both routes."""
    text = rng.choice(("Hi", "Once upon a time", "日本語", "<|im_end|>", "a" * 300))
    return {"model": model, "prompt": text, "messages": [{"role": "user", "content": text}], "max_tokens": 3}


def _mutated_body(rng: random.Random, model: str, max_tokens: int) -> dict[str, Any]:
    """Return a valid body with a few fields replaced."""
    body = _valid_body(rng, model)
    for _ in range(rng.randint(1, 4)):
        field = rng.choice(list(IN_RANGE))
        body[field] = rng.choice(IN_RANGE[field]) if rng.random() < 0.6 else _value(rng)
    if rng.random() < 0.1:
        body["messages"] = [_message(rng) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.1:
        body[rng.choice(("model", "unknown", "\x00", "é", "__proto__"))] = _value(rng)
    return _cap_lengths(body, max_tokens)


def _cap_lengths(body: dict[str, Any], max_tokens: int) -> dict[str, Any]:
    """Return the body with every valid length reduced."""
    if body["max_tokens"] is None:
        body["max_tokens"] = max_tokens
    for field in ("max_tokens", "max_completion_tokens"):
        sent = body.get(field)
        if isinstance(sent, int | float) and max_tokens < sent < 2**64:
            body[field] = max_tokens
    return body


def _message(rng: random.Random) -> Any:
    message = {"role": rng.choice(("user", "system", "assistant", "developer")), "content": "Hi"}
    return rng.choice((message, {**message, rng.choice(("role", "content", "name", "other")): _value(rng)}))


def _value(rng: random.Random, depth: int = 0) -> Any:
    """Return any JSON value, or NaN, infinities and lone surrogates, which are not JSON."""
    kind = rng.random()
    if kind < 0.7 or depth > 3:
        return rng.choice(SCALARS)
    if kind < 0.8:
        return [_value(rng, depth + 1) for _ in range(rng.randint(0, 4))]
    if kind < 0.9:
        return {str(_value(rng, 4)): _value(rng, depth + 1) for _ in range(rng.randint(0, 3))}
    if kind < 0.95:
        return [rng.choice(SCALARS)] * rng.choice((65, 1025, 3000))
    return rng.choice(("é", "語", "😀")) * rng.choice((256, 257, 50_000))


def _malformed_body(rng: random.Random, valid: bytes) -> bytes:
    """Return the body with its JSON broken."""
    place = rng.randrange(len(valid))
    deep = rng.choice((10, 500, 100_000))
    return rng.choice(
        (
            b"",
            b" \n\t",
            valid[:place],
            valid[place:],
            valid + valid,
            valid[:place] + rng.randbytes(3) + valid[place + 3 :],
            valid.replace(b"Hi", b"\xff\xfe").replace(b"Once", b"\xed\xa0\x80"),
            valid.replace(b"3", rng.choice((b"NaN", b"-Infinity", b"1e999", b"03", b"9" * 5000, b"0x10", b"+1"))),
            valid.replace(b'"', b"'"),
            valid.decode().encode("utf-16"),
            b"\xef\xbb\xbf" + valid,
            valid[:-1] + b', "other": ' + b"[" * deep + b"]" * deep + b"}",
            valid[:-1] + b', "messages": ' + b'[{"content":' * deep + b"1" + b"}]" * deep + b"}",
            b"[" * deep,
            b'{"a":' * deep,
            rng.randbytes(rng.randint(1, 200)),
            b"model=echo&prompt=Once",
            rng.choice((b"null", b"[]", b"1", b'"a"', b"true", b"{}", b"[" + valid + b"]")),
            b"{" + valid[1:-1] + b"," + valid[1:],
        )
    )


def _huge_body(rng: random.Random, model: str) -> bytes:
    """Return a body just below or above the size limit."""
    text = "a" * rng.choice((MEGABYTES_10, 11 * 2**20))
    body = {**_valid_body(rng, model), rng.choice(("prompt", "model", "stop", "user", "other")): text}
    return json.dumps({**body, "messages": [{"role": "user", "content": text}]}).encode()
