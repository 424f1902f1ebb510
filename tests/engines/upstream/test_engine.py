"""Upstreams as engines, over scripted servers."""

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from dragoman.core.errors import (
    BadRequest,
    Overloaded,
    ReplicaFailed,
)
from dragoman.core.events import Delta, Finished, Started, Usage
from dragoman.core.request import GenerationRequest, SamplingParams, TextPrompt, TokenPrompt
from dragoman.engines.upstream.connecting import resolve_by_system
from dragoman.engines.upstream.engine import (
    PROBES_PER_DISCOVERY,
    UNBOUNDED_ANSWER_TOKENS,
    UpstreamEngine,
)
from dragoman.engines.upstream.http_client import UpstreamClient
from dragoman.engines.upstream.http_request import UpstreamAddress
from dragoman.engines.upstream.kinds import KindName
from dragoman.engines.upstream.probed_health import FAILURES_TO_LEAVE, SUCCESSES_TO_RETURN, ProbedHealth
from tests.support.captured_logs import capture_logs
from tests.support.scripted_upstream import (
    HEAD,
    LAST_CHUNK,
    ScriptedRequest,
    ScriptedUpstream,
    hang_after,
    response,
    running_upstream,
)
from tests.support.timeouts import TEST_TIMEOUT_SECONDS
from tests.support.upstream_engines import (
    DONE,
    FINISH,
    HELLO,
    HELLO_TOKENS,
    KEY,
    REQUEST,
    USAGE,
    ModelServer,
    collect,
    document,
    engine_of,
    sending,
    text_chunk,
)


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until the condition holds."""
    while not condition():
        await asyncio.to_thread(os.sched_yield)


async def test_an_answer_is_translated_whole() -> None:
    text = text_chunk("Hel") + text_chunk("lo")
    server = ModelServer(completions=sending(HEAD, text, FINISH, USAGE, DONE + LAST_CHUNK))
    async with engine_of(server) as engine:
        events = await collect(engine)
    assert events[0] == Started(HELLO_TOKENS, 0)
    assert "".join(each.text for each in events if isinstance(each, Delta)) == "Hello"
    assert events[-2:] == [Finished(0, "stop"), Usage(7, 2, 0, source="upstream")]
    [request] = server.upstream.requests
    assert f"authorization: Bearer {KEY}".encode() in request.head
    assert server.bodies[0]["model"] == "m"


async def test_the_trace_of_a_request_goes_on_at_the_upstream_and_there_is_no_header_without_one() -> None:
    server = ModelServer(completions=sending(HEAD, text_chunk("Hi") + FINISH + USAGE + DONE + LAST_CHUNK))
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with engine_of(server) as engine:
        await collect(engine)
        await collect(engine, msgspec.structs.replace(REQUEST, trace=trace))
    untraced, traced = server.upstream.requests
    assert b"traceparent" not in untraced.head
    assert f"\r\ntraceparent: {trace}\r\n".encode() in traced.head


async def test_an_upstream_that_lists_its_model_no_longer_is_not_ready_until_it_does_again() -> None:
    models: dict[str, Any] = {"data": [{"id": "m", "context_length": 64}]}
    async with engine_of(ModelServer(models), kind=None) as engine:
        await engine.start()
        await until(lambda: engine.ready)
        for listed in ("other", "m"):
            models["data"][0]["id"] = listed
            await engine.find_out()
            assert (engine.ready, engine.context_length) == (listed == "m", 64)


async def test_an_upstream_that_never_listed_its_model_is_taken_at_its_health_and_what_it_lists_is_logged() -> None:
    async with engine_of(ModelServer({"data": [{"id": "m:latest"}]}), kind=None) as engine:
        with capture_logs() as logged:
            await engine.start()
            await until(lambda: engine.ready)
            await engine.find_out()
    unlisted = [entry for entry in logged if entry["event"] == "upstream_model_unlisted"]
    assert [(entry["model"], entry["listed"]) for entry in unlisted] == [("m", ("m:latest",))]


async def test_the_log_says_once_why_an_upstream_is_not_ready_from_the_start() -> None:
    async with engine_of(ModelServer(sending(response(401)))) as engine:
        with capture_logs() as logged:
            await engine.probe()
            await engine.probe()
    [entry] = [entry for entry in logged if entry["event"] == "upstream_readiness_changed"]
    assert (entry["ready"], "401" in entry["reason"]) == (False, True)


async def test_the_requests_id_is_sent_for_the_logs_of_the_upstream() -> None:
    server = ModelServer(completions=sending(HEAD, FINISH, LAST_CHUNK))
    async with engine_of(server) as engine:
        await collect(engine, msgspec.structs.replace(REQUEST, request_id="0123abcd"))
        await collect(engine)
    heads = [request.head for request in server.upstream.requests]
    assert [b"x-request-id: 0123abcd\r\n" in head for head in heads] == [True, False]
    assert b"x-request-id" not in heads[1]


async def test_closing_the_answer_closes_the_upstreams_connection() -> None:
    closed: list[asyncio.Event] = []

    async def hang(request: ScriptedRequest) -> None:
        closed.append(request.closed)
        await hang_after(request, HEAD, text_chunk("Hel"))

    async with engine_of(ModelServer(completions=hang)) as engine:
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
    tokens = sending(document({"tokens": [1]}))
    answer = sending(HEAD, FINISH, LAST_CHUNK)
    server = ModelServer({"data": [{"id": "m", **entry}]}, completions=answer, tokenize=tokens)
    request = msgspec.json.decode(
        b'{"model":"m","prompt":{"type":"text","text":"a"},"answer_format":{"type":"regex","pattern":"a"}}',
        type=GenerationRequest,
    )
    async with engine_of(server, kind=None) as engine:
        assert "bad_words" in engine.capabilities, "before it is known, it is taken for the ablest one"
        await collect(engine, request)
        assert ("bad_words" in engine.capabilities) == (entry["owned_by"] == "vllm")
        assert (engine.context_length, engine.ready) == (64, True)
    assert kind in server.bodies[-1]


async def test_what_a_kind_turns_out_not_to_do_is_refused_by_name() -> None:
    request = msgspec.structs.replace(REQUEST, sampling=SamplingParams(bad_words=("x",)))
    async with engine_of(ModelServer({"data": [{"id": "m"}]}), kind=None) as engine:
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
    server = ModelServer(tokenize=sending(document({"tokens": [1, 2, 3], "token_strs": ["a", "b", "c"]})))
    async with engine_of(server) as engine:
        assert await engine.count_tokens(HELLO) == 3
        assert (await engine.tokenize(TextPrompt("abc"))).texts == ("a", "b", "c")
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "Hello"}]
    async with engine_of(ModelServer(), "openai") as engine:
        assert await engine.count_tokens(HELLO) == HELLO_TOKENS
        assert await engine.count_tokens(TokenPrompt((1, 2))) == 2
        with pytest.raises(BadRequest):
            await engine.tokenize(TextPrompt("abc"))


async def test_an_upstream_that_does_not_answer_is_neither_waited_for_to_count_nor_to_be_probed() -> None:
    server = ModelServer(tokenize=hang_after)
    async with engine_of(server, reply_seconds=0.01) as engine:
        with pytest.raises(ReplicaFailed, match="did not count tokens in time"):
            await engine.count_tokens(HELLO)
    unresponsive = ModelServer()
    unresponsive.upstream = ScriptedUpstream(hang_after)
    async with engine_of(unresponsive, kind=None, reply_seconds=0.01) as engine:
        with pytest.raises(ReplicaFailed, match="cannot be reached"):
            await collect(engine)
        assert not engine.ready


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_server_behind_a_proxy_that_passes_only_the_api_on_is_estimated_and_stays_ready(status: int) -> None:
    hidden = sending(response(status))
    async with engine_of(ModelServer(tokenize=hidden, health=hidden)) as engine:
        for _ in range(PROBES_PER_DISCOVERY - 1):
            await engine.probe()
        assert engine.ready
        assert "exact_token_counts" in engine.capabilities
        assert await engine.count_tokens(HELLO) == HELLO_TOKENS
        assert not engine.capabilities & {"exact_token_counts", "tokenize"}
        with pytest.raises(BadRequest, match="does not convert tokens"):
            await engine.tokenize(TextPrompt("abc"))
        await engine.find_out()
        assert "exact_token_counts" in engine.capabilities


async def test_llama_servers_prompt_is_rendered_before_it_is_counted() -> None:
    server = ModelServer(
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
    server = ModelServer(completions=sending(HEAD, FINISH, LAST_CHUNK))
    request = GenerationRequest(model="m", prompt=prompt, sampling=SamplingParams(max_tokens=max_tokens))
    async with engine_of(server) as engine:
        await collect(engine, request)
    assert server.bodies[0].get("max_tokens") == sent


@pytest.mark.parametrize(("kind", "max_tokens"), [("vllm", 70), ("openai", 1)])
async def test_a_text_without_a_limit_may_fill_the_context_where_its_tokens_can_be_counted(
    kind: KindName, max_tokens: int
) -> None:
    tokens = sending(document({"tokens": [1] * 30}))
    server = ModelServer(completions=sending(HEAD, FINISH, LAST_CHUNK), tokenize=tokens)
    async with engine_of(server, kind) as engine:
        await engine.find_out()
        assert engine.context_length == 100
        await collect(engine, GenerationRequest(model="m", prompt=TextPrompt("word " * 80)))
    assert server.bodies[-1]["max_tokens"] == max_tokens


@pytest.mark.parametrize("length", [10**30, 2**31, 0, -1])
async def test_a_context_that_no_model_has_is_not_believed(length: int) -> None:
    models = {"data": [{"id": "m", "owned_by": "vllm", "max_model_len": length, "meta": {"n_ctx_train": 64}}]}
    async with engine_of(ModelServer(models)) as engine:
        await engine.find_out()
        assert engine.context_length == 64
    properties = sending(document({"default_generation_settings": {"n_ctx": length}}))
    models = {"data": [{"id": "m", "owned_by": "llamacpp", "meta": {"n_ctx_train": 64}}]}
    async with engine_of(ModelServer(models, props=properties), "llama-server") as engine:
        await engine.find_out()
        assert engine.context_length == 64


async def test_owners_are_told_apart_by_a_digest() -> None:
    server = ModelServer(completions=sending(HEAD, FINISH, LAST_CHUNK))
    async with engine_of(server) as engine:
        for owner in ("account 1", "account 2", ""):
            await collect(engine, msgspec.structs.replace(REQUEST, owner=owner))
    salts = [body.get("cache_salt") for body in server.bodies]
    assert len(set(salts)) == 3
    assert salts[2] is None
    assert "account" not in str(salts)


async def test_an_operator_can_probe_between_two_probes() -> None:
    async with engine_of(ModelServer(health=sending(response(503)))) as engine:
        await engine.probe()
        listed = engine.last_probe
        await engine.probe()
        refused = engine.last_probe
    assert listed is not None
    assert refused is not None
    assert (listed.is_well, listed.kind, refused.is_well) == (True, "vllm", False)


def test_an_upstream_that_wavers_keeps_its_state() -> None:
    health = ProbedHealth()
    assert health.note(None), "the first probe decides alone"
    for _ in range(FAILURES_TO_LEAVE - 1):
        assert not health.note(TimeoutError())
    assert not health.note(None)
    assert health.is_ready
    assert [health.note(TimeoutError()) for _ in range(FAILURES_TO_LEAVE)][-1]
    assert [health.note(None) for _ in range(SUCCESSES_TO_RETURN)] == [False, True]
    assert health.is_ready


async def test_what_this_server_lacks_is_no_failure_of_an_upstream() -> None:
    lacks_descriptors = False

    async def resolve(host: str, port: int) -> Sequence[str]:
        if lacks_descriptors:
            raise OSError(errno.EMFILE, "")
        return await resolve_by_system(host, port)

    async with running_upstream(ModelServer().upstream) as url, asyncio.timeout(TEST_TIMEOUT_SECONDS):
        client = UpstreamClient(UpstreamAddress.parse(url), resolve=resolve)
        engine = UpstreamEngine("m/0", client, model="m")
        lacks_descriptors = True
        with pytest.raises(Overloaded, match="no connection to the upstream left"):
            await collect(engine)
        lacks_descriptors = False
        await engine.probe()
        assert engine.ready
        client.close()
        lacks_descriptors = True
        for _ in range(FAILURES_TO_LEAVE):
            await engine.probe()
        assert engine.last_probe is not None
        assert "Too many open files" in engine.last_probe.problem
        assert engine.ready
        with pytest.raises(Overloaded, match="no connection to the upstream left"):
            await collect(engine)
        await engine.close()
