"""Upstreams as engines, over scripted servers."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

from dragoman.core.errors import (
    BadRequest,
    ContextOverflow,
    DragomanError,
    EngineFailed,
    ReplicaFailed,
    UpstreamFailed,
    UpstreamUnavailable,
)
from dragoman.core.events import Delta, Event, Finished, Started, Usage
from dragoman.core.request import ChatPrompt, GenerationRequest, Message, SamplingParams, TextPrompt, TokenPrompt
from dragoman.core.secret_text import SecretText
from dragoman.engines.upstream.engine import (
    FAILURES_TO_LEAVE,
    SUCCESSES_TO_RETURN,
    UNBOUNDED_ANSWER_TOKENS,
    ProbedHealth,
    UpstreamEngine,
)
from dragoman.engines.upstream.http_client import UpstreamClient
from dragoman.engines.upstream.http_request import UpstreamAddress
from dragoman.engines.upstream.kinds import KindName
from tests.support.scripted_upstream import (
    HEAD,
    LAST_CHUNK,
    ScriptedRequest,
    ScriptedUpstream,
    event,
    hang_after,
    response,
    running_upstream,
)
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

KEY = "sk-upstream-0123456789"
HELLO = ChatPrompt(messages=(Message(role="user", content="Hello"),))
REQUEST = GenerationRequest(model="m", prompt=HELLO)
MODELS = {"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 100}]}

Handler = Callable[[ScriptedRequest], Awaitable[object]]


def document(value: object) -> bytes:
    return response(200, json.dumps(value).encode(), "content-type: application/json")


def text_chunk(text: str, **fields: Any) -> bytes:
    return event(json.dumps({"choices": [{"index": 0, "delta": {"content": text}, **fields}]}).encode())


FINISH = text_chunk("", finish_reason="stop")
USAGE = event(b'{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}')
DONE = event(b"[DONE]")


class Server:
    """A server of one model. `handlers` answer the paths, and all other paths than the list of models get 404."""

    def __init__(self, models: object = MODELS, **handlers: Handler) -> None:
        self.upstream = ScriptedUpstream(self._answer)
        self.bodies: list[dict[str, Any]] = []
        self._models = models
        self._handlers = handlers

    async def _answer(self, request: ScriptedRequest) -> object:
        path = request.head.split(b" ")[1].decode()
        if request.body:
            self.bodies.append(json.loads(request.body))
        handler = self._handlers.get(path.rpartition("/")[2].replace("-", "_"))
        if path == "/v1/models":
            handler = sending(document(self._models))
        return await (handler or sending(response(404)))(request)


def sending(*parts: bytes) -> Handler:
    async def handler(request: ScriptedRequest) -> object:
        await request.send(*parts)
        return True

    return handler


@contextlib.asynccontextmanager
async def engine_of(
    server: Server, kind: KindName | None = "vllm", reply_seconds: float = TEST_TIMEOUT_SECONDS
) -> AsyncGenerator[UpstreamEngine]:
    async with running_upstream(server.upstream) as url, asyncio.timeout(TEST_TIMEOUT_SECONDS):
        client = UpstreamClient(UpstreamAddress.parse(url), key=SecretText(KEY))
        engine = UpstreamEngine("m/0", client, model="m", kind=kind, reply_seconds=reply_seconds)
        try:
            yield engine
        finally:
            await engine.close()


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until the condition holds."""
    while not condition():
        await asyncio.to_thread(os.sched_yield)


async def collect(engine: UpstreamEngine, request: GenerationRequest = REQUEST) -> list[Event]:
    return [event async for event in engine.generate(request)]


async def test_an_answer_is_translated_whole() -> None:
    text = text_chunk("Hel") + text_chunk("lo")
    server = Server(completions=sending(HEAD, text, FINISH, USAGE, DONE + LAST_CHUNK))
    async with engine_of(server) as engine:
        events = await collect(engine)
    assert events[0] == Started(_estimated(), 0)
    assert "".join(each.text for each in events if isinstance(each, Delta)) == "Hello"
    assert events[-2:] == [Finished(0, "stop"), Usage(7, 2, 0, source="upstream")]
    [request] = server.upstream.requests
    assert f"authorization: Bearer {KEY}".encode() in request.head
    assert server.bodies[0]["model"] == "m"


async def test_the_trace_of_a_request_goes_on_at_the_upstream_and_there_is_no_header_without_one() -> None:
    server = Server(completions=sending(HEAD, text_chunk("Hi") + FINISH + USAGE + DONE + LAST_CHUNK))
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with engine_of(server) as engine:
        await collect(engine)
        await collect(engine, msgspec.structs.replace(REQUEST, trace=trace))
    untraced, traced = server.upstream.requests
    assert b"traceparent" not in untraced.head
    assert f"\r\ntraceparent: {trace}\r\n".encode() in traced.head


def _estimated() -> int:
    return 8 + 2


FAILURES: list[tuple[tuple[bytes, ...], type[DragomanError], str]] = [
    ((response(503),), UpstreamUnavailable, "failed"),
    ((response(500, b"Traceback ..."),), UpstreamUnavailable, "failed"),
    ((response(429, b"", "retry-after: 7"),), UpstreamUnavailable, "limited"),
    ((response(401),), UpstreamUnavailable, "configuration"),
    ((response(404),), UpstreamUnavailable, "configuration"),
    ((response(302, b"", "location: http://169.254.169.254/"),), UpstreamUnavailable, "configuration"),
    ((document({"error": {"message": "no"}}),), UpstreamUnavailable, "failed"),
    ((HEAD, event(b'{"error":{"message":"out of memory"}}')), UpstreamUnavailable, "failed"),
    ((HEAD, LAST_CHUNK), UpstreamUnavailable, "failed"),
    ((HEAD, event(b"no json")), UpstreamUnavailable, "failed"),
    ((HEAD,), UpstreamUnavailable, "failed"),
    ((HEAD, text_chunk("Hel")), UpstreamFailed, ""),
    ((HEAD, text_chunk("Hel"), LAST_CHUNK), UpstreamFailed, ""),
    ((HEAD, text_chunk("Hel"), event(b'{"error":{}}')), UpstreamFailed, ""),
]


@pytest.mark.parametrize(("parts", "error", "fault"), FAILURES)
async def test_a_failure_before_the_first_token_may_be_tried_elsewhere_and_a_later_one_may_not(
    parts: tuple[bytes, ...], error: type[DragomanError], fault: str
) -> None:
    server = Server(completions=sending(*parts))
    async with engine_of(server) as engine:
        with pytest.raises(EngineFailed) as caught:
            await collect(engine)
        assert (await engine.statistics()).running == 0
    assert type(caught.value) is error
    if isinstance(caught.value, ReplicaFailed):
        assert caught.value.fault == fault
        assert caught.value.retry_after == (7 if fault == "limited" else 0)
    assert KEY not in caught.value.message


@pytest.mark.parametrize(("status", "seconds"), [(503, 7.0), (500, 0.0)])
async def test_an_overloaded_upstream_says_when_to_come_back(status: int, seconds: float) -> None:
    async with engine_of(Server(completions=sending(response(status, b"", "retry-after: 7")))) as engine:
        with pytest.raises(UpstreamUnavailable) as caught:
            await collect(engine)
    assert (caught.value.fault, caught.value.retry_after) == ("failed", seconds)


async def test_an_upstream_that_lists_its_model_no_longer_is_not_ready_until_it_does_again() -> None:
    models: dict[str, Any] = {"data": [{"id": "m", "context_length": 64}]}
    async with engine_of(Server(models), kind=None) as engine:
        await engine.start()
        await until(lambda: engine.ready)
        for listed in ("other", "m"):
            models["data"][0]["id"] = listed
            await engine.find_out()
            assert (engine.ready, engine.context_length) == (listed == "m", 64)


async def test_an_upstream_that_never_listed_its_model_is_taken_at_its_health() -> None:
    async with engine_of(Server({"data": [{"id": "m:latest"}]}), kind=None) as engine:
        await engine.start()
        await until(lambda: engine.ready)


async def test_the_requests_id_is_sent_for_the_logs_of_the_upstream() -> None:
    server = Server(completions=sending(HEAD, FINISH, LAST_CHUNK))
    async with engine_of(server) as engine:
        await collect(engine, msgspec.structs.replace(REQUEST, request_id="0123abcd"))
        await collect(engine)
    heads = [request.head for request in server.upstream.requests]
    assert [b"x-request-id: 0123abcd\r\n" in head for head in heads] == [True, False]
    assert b"x-request-id" not in heads[1]


async def test_a_refused_request_is_refused_in_the_upstreams_own_words() -> None:
    refusal = response(422, b'{"error":{"message":"top_logprobs must be  positive"}}')
    async with engine_of(Server(completions=sending(refusal))) as engine:
        with pytest.raises(BadRequest, match=r"^top_logprobs must be positive$"):
            await collect(engine)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            {"error": {"message": "too large", "n_prompt_tokens": 9000, "n_ctx": 4096}},
            (9000, 4096),
        ),
        (
            {"message": "This model's maximum context length is 8192 tokens. However, you requested 9500 tokens"},
            (9500, 8192),
        ),
    ],
)
async def test_a_prompt_that_is_too_long_is_known_as_such(body: object, expected: tuple[int, int]) -> None:
    refusal = response(400, json.dumps(body).encode())
    async with engine_of(Server(completions=sending(refusal))) as engine:
        with pytest.raises(ContextOverflow) as caught:
            await collect(engine)
    assert (caught.value.prompt_tokens, caught.value.context_length) == expected


async def test_a_lost_connection_after_the_end_of_all_choices_loses_only_the_usage() -> None:
    async with engine_of(Server(completions=sending(HEAD, text_chunk("Hi"), FINISH))) as engine:
        assert (await collect(engine))[-1] == Usage(_estimated(), 1, 0, source="estimated")


async def test_closing_the_answer_closes_the_upstreams_connection() -> None:
    closed: list[asyncio.Event] = []

    async def hang(request: ScriptedRequest) -> None:
        closed.append(request.closed)
        await hang_after(request, HEAD, text_chunk("Hel"))

    async with engine_of(Server(completions=hang)) as engine:
        async with contextlib.aclosing(engine.generate(REQUEST)) as events:
            await anext(events)
        await closed[0].wait()
        assert (await engine.statistics()).running == 0


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        ({"owned_by": "vllm", "max_model_len": 64}, "structured_outputs"),
        ({"owned_by": "sglang", "max_model_len": 64}, "regex"),
    ],
)
async def test_the_kind_is_found_from_the_list_of_models(entry: dict[str, Any], kind: str) -> None:
    server = Server({"data": [{"id": "m", **entry}]}, completions=sending(HEAD, FINISH, LAST_CHUNK))
    request = msgspec.json.decode(
        b'{"model":"m","prompt":{"type":"text","text":"a"},"answer_format":{"type":"regex","pattern":"a"}}',
        type=GenerationRequest,
    )
    async with engine_of(server, kind=None) as engine:
        assert "bad_words" in engine.capabilities, "before it is known, it is taken for the ablest one"
        await collect(engine, request)
        assert ("bad_words" in engine.capabilities) == (entry["owned_by"] == "vllm")
        assert (engine.context_length, engine.ready) == (64, True)
    assert kind in server.bodies[0]


async def test_what_a_kind_turns_out_not_to_do_is_refused_by_name() -> None:
    request = msgspec.structs.replace(REQUEST, sampling=SamplingParams(bad_words=("x",)))
    async with engine_of(Server({"data": [{"id": "m"}]}), kind=None) as engine:
        with pytest.raises(BadRequest, match="bad_words"):
            await collect(engine, request)


async def test_an_upstream_of_unknown_kind_that_does_not_answer_fails_the_attempt() -> None:
    async with running_upstream(ScriptedUpstream()) as url:
        pass
    engine = UpstreamEngine("m/0", UpstreamClient(UpstreamAddress.parse(url)), model="m")
    with pytest.raises(ReplicaFailed):
        await collect(engine)
    assert not engine.ready
    await engine.close()


async def test_tokens_are_counted_by_the_upstream_where_it_can_and_estimated_otherwise() -> None:
    server = Server(tokenize=sending(document({"tokens": [1, 2, 3], "token_strs": ["a", "b", "c"]})))
    async with engine_of(server) as engine:
        assert await engine.count_tokens(HELLO) == 3
        assert (await engine.tokenize(TextPrompt("abc"))).texts == ("a", "b", "c")
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "Hello"}]
    async with engine_of(Server(), "openai") as engine:
        assert await engine.count_tokens(HELLO) == _estimated()
        assert await engine.count_tokens(TokenPrompt((1, 2))) == 2
        with pytest.raises(BadRequest):
            await engine.tokenize(TextPrompt("abc"))


async def test_an_upstream_that_does_not_answer_is_neither_waited_for_to_count_nor_to_be_probed() -> None:
    server = Server(tokenize=hang_after)
    async with engine_of(server, reply_seconds=0.01) as engine:
        with pytest.raises(ReplicaFailed, match="did not count tokens in time"):
            await engine.count_tokens(HELLO)
    unresponsive = Server()
    unresponsive.upstream = ScriptedUpstream(hang_after)
    async with engine_of(unresponsive, kind=None, reply_seconds=0.01) as engine:
        with pytest.raises(ReplicaFailed, match="cannot be reached"):
            await collect(engine)
        assert not engine.ready


async def test_llama_servers_prompt_is_rendered_before_it_is_counted() -> None:
    server = Server(
        apply_template=sending(document({"prompt": "<|user|>Hello"})), tokenize=sending(document({"tokens": [1] * 4}))
    )
    async with engine_of(server, "llama-server") as engine:
        assert await engine.count_tokens(HELLO) == 4
    assert server.bodies[1] == {"content": "<|user|>Hello", "add_special": True, "parse_special": True}


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "sent"),
    [(HELLO, None, None), (HELLO, 9, 9), (TextPrompt("a"), 9, 9), (TextPrompt("a"), None, UNBOUNDED_ANSWER_TOKENS)],
)
async def test_a_text_is_always_bounded(prompt: Any, max_tokens: int | None, sent: int | None) -> None:
    server = Server(completions=sending(HEAD, FINISH, LAST_CHUNK))
    request = GenerationRequest(model="m", prompt=prompt, sampling=SamplingParams(max_tokens=max_tokens))
    async with engine_of(server) as engine:
        await collect(engine, request)
    assert server.bodies[0].get("max_tokens") == sent


async def test_owners_are_told_apart_by_a_digest() -> None:
    server = Server(completions=sending(HEAD, FINISH, LAST_CHUNK))
    async with engine_of(server) as engine:
        for owner in ("account 1", "account 2", ""):
            await collect(engine, msgspec.structs.replace(REQUEST, owner=owner))
    salts = [body.get("cache_salt") for body in server.bodies]
    assert len(set(salts)) == 3
    assert salts[2] is None
    assert "account" not in str(salts)


async def test_an_operator_can_probe_between_two_probes() -> None:
    async with engine_of(Server()) as engine:
        await engine.probe()
        listed = engine.last_probe
        await engine.probe()
        refused = engine.last_probe
    assert listed is not None
    assert refused is not None
    assert (listed.is_well, listed.kind, refused.is_well) == (True, "vllm", False), "it has no path for its health"


def test_an_upstream_that_wavers_keeps_its_state() -> None:
    health = ProbedHealth()
    assert health.note(is_well=True), "the first probe decides alone"
    for _ in range(FAILURES_TO_LEAVE - 1):
        assert not health.note(is_well=False)
    assert not health.note(is_well=True)
    assert health.is_ready
    assert [health.note(is_well=False) for _ in range(FAILURES_TO_LEAVE)][-1]
    assert [health.note(is_well=True) for _ in range(SUCCESSES_TO_RETURN)] == [False, True]
    assert health.is_ready
