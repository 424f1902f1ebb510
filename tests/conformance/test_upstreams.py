"""The promises of all dialects with another server behind them: a dragoman, and llama.cpp's own server."""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn

from benchmarks.llama_server import LlamaServerOptions
from dragoman.core.secret_text import SecretText
from dragoman.engines.echo import EchoEngine
from dragoman.engines.llama.weights.sources import resolve
from dragoman.engines.reported_load import ReportedLoad
from dragoman.engines.upstream.engine import UpstreamEngine
from dragoman.engines.upstream.http_client import UpstreamClient
from dragoman.engines.upstream.http_request import UpstreamAddress
from dragoman.engines.upstream.kinds import KindName
from dragoman.engines.upstream.time_limits import UpstreamTimeouts
from dragoman.gateway.routing.catalog import Deployment
from dragoman.gateway.routing.replica import Replica
from dragoman.gateway.routing.router_options import RouterOptions
from dragoman.server.app import App
from tests.support.apps import KEY, client_of, echo_app, running_app
from tests.support.dialects.clients import DialectClient, Reply
from tests.support.echo_engines import GatedEcho
from tests.support.scripted_upstream import (
    HEAD,
    Script,
    ScriptedRequest,
    ScriptedUpstream,
    event,
    hang_after,
    response,
    running_upstream,
    sends,
)
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

EMOJI = "día 🦜🇫🇷 naïve 漢字"


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until the condition holds."""
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        while not condition():
            await asyncio.to_thread(os.sched_yield)


@contextlib.asynccontextmanager
async def serving(app: App) -> AsyncGenerator[str]:
    """Serve an app on a free port of this machine."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on"))
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    host, port = server.servers[0].sockets[0].getsockname()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        await task


@contextlib.asynccontextmanager
async def in_front_of(
    url: str,
    model: str = "echo",
    key: str | None = None,
    *,
    kind: KindName | None = None,
    timeouts: UpstreamTimeouts | None = None,
) -> AsyncGenerator[httpx.AsyncClient]:
    """Open a client of an app whose deployment `echo` is answered by a server."""
    secret = None if key is None else SecretText(key)
    client = UpstreamClient(UpstreamAddress.parse(url), key=secret, timeouts=timeouts)
    app = echo_app(engine=UpstreamEngine("echo/0", client, model=model, kind=kind))
    async with asyncio.timeout(2 * TEST_TIMEOUT_SECONDS), running_app(app), client_of(app) as opened:
        yield opened


async def ask(client: httpx.AsyncClient, dialect: DialectClient, text: str, **options: object) -> Reply:
    response = await client.post(dialect.path("echo"), json=dialect.body("echo", text, **options))
    assert response.status_code == 200, response.text
    return dialect.read_stream(response.text) if options.get("stream") else dialect.read(response.json())


async def test_a_dragoman_answers_in_every_dialect(dialect: DialectClient) -> None:
    async with serving(echo_app(keys=[KEY])) as url, in_front_of(url, key=KEY) as client:
        whole = await ask(client, dialect, EMOJI, temperature=0)
        assert whole == Reply(EMOJI, "stop", len(f"user: {EMOJI}".encode()), len(EMOJI.encode()) + 1)
        assert await ask(client, dialect, EMOJI, temperature=0, stream=True) == whole
        cut = await ask(client, dialect, "Hello", max_tokens=2)
        assert (cut.text, cut.finish_reason, cut.completion_tokens) == ("He", "length", 2)
        unknown = await client.post(dialect.path("parrot"), json=dialect.body("parrot", "Hello"))
        assert unknown.status_code == dialect.unknown_model_status


async def test_a_wrong_key_of_the_upstream_is_never_reported_as_the_clients(dialect: DialectClient) -> None:
    async with serving(echo_app(keys=[KEY])) as url, in_front_of(url, key="sk-wrong-0123456789") as client:
        response = await client.post(dialect.path("echo"), json=dialect.body("echo", "Hello"))
    assert response.status_code == 502
    assert dialect.is_error(response.json())


TEXT = event(b'{"choices":[{"index":0,"delta":{"content":"Hel"}}]}')

FAILURES: dict[str, Script] = {
    "unauthorized": sends(response(401, b'{"error":{"message":"a secret"}}')),
    "forbidden": sends(response(403, b'{"error":{"message":"a secret"}}')),
    "unknown_model": sends(response(404)),
    "failed": sends(response(500, b"a secret")),
    "not_to_be_tried_again": sends(response(500, b"a secret", "x-should-retry: false")),
    "no_http": sends(b"SSH-2.0-OpenSSH_9.6\r\n", close=True),
    "no_stream": sends(response(200, b"<html>a secret</html>", "content-type: text/html")),
    "lost": sends(HEAD, close=True),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_the_failure_of_an_upstream_is_that_of_a_gateway(dialect: DialectClient, failure: str) -> None:
    async with running_upstream(ScriptedUpstream(FAILURES[failure])) as url, in_front_of(url, kind="vllm") as client:
        for stream in (False, True):
            response = await client.post(dialect.path("echo"), json=dialect.body("echo", "Hello", stream=stream))
            assert response.status_code == 502, response.text
            assert dialect.is_error(response.json())
            assert "secret" not in response.text


async def test_an_upstream_that_nobody_runs_is_a_failure_of_the_gateway(dialect: DialectClient) -> None:
    async with running_upstream(ScriptedUpstream()) as url:
        pass
    kinds: tuple[KindName | None, ...] = ("vllm", None)
    for kind in kinds:
        async with in_front_of(url, kind=kind) as client:
            response = await client.post(dialect.path("echo"), json=dialect.body("echo", "Hello"))
        assert response.status_code == 502
        assert dialect.is_error(response.json())


@pytest.mark.parametrize("parts", [(), (HEAD,)], ids=["silent", "without_a_token"])
async def test_an_upstream_that_takes_too_long_is_a_timeout_of_the_gateway(
    dialect: DialectClient, parts: tuple[bytes, ...]
) -> None:
    async def hang(request: ScriptedRequest) -> None:
        await hang_after(request, *parts)

    limits = UpstreamTimeouts(first_token=0.01)
    async with (
        running_upstream(ScriptedUpstream(hang)) as url,
        in_front_of(url, kind="vllm", timeouts=limits) as client,
    ):
        response = await client.post(dialect.path("echo"), json=dialect.body("echo", "Hello"))
    assert response.status_code == dialect.upstream_timeout_status
    assert dialect.is_error(response.json())


@pytest.mark.parametrize("status", [429, 503])
async def test_an_upstream_that_asks_to_come_later_is_an_overload(dialect: DialectClient, status: int) -> None:
    async with running_upstream(ScriptedUpstream(sends(response(status, b"a secret", "retry-after: 30")))) as url:
        engine = UpstreamEngine("echo/0", UpstreamClient(UpstreamAddress.parse(url)), model="echo", kind="vllm")
        replica = Replica("echo/0", engine, is_upstream=True)
        deployment = Deployment(name="echo", replicas=(replica,), routing=RouterOptions(wait_seconds=1))
        async with client_of(echo_app(engine=deployment)) as client:
            reply = await client.post(dialect.path("echo"), json=dialect.body("echo", "Hello"))
        await engine.close()
    assert (reply.status_code, reply.headers["retry-after"]) == (dialect.overloaded_status, "30")
    assert dialect.is_error(reply.json())
    assert "secret" not in reply.text


async def test_an_answer_that_an_upstream_breaks_off_ends_with_the_dialects_error(dialect: DialectClient) -> None:
    breaking = ScriptedUpstream(sends(HEAD, TEXT, close=True))
    async with running_upstream(breaking) as url, in_front_of(url, kind="vllm") as client:
        whole = await client.post(dialect.path("echo"), json=dialect.body("echo", "Hello"))
        streamed = await client.post(dialect.path("echo"), json=dialect.body("echo", "Hello", stream=True))
    assert whole.status_code == 502
    assert dialect.is_error(whole.json())
    assert streamed.status_code == 200
    assert dialect.ends_with_error(streamed.text)


async def test_a_prompt_that_is_too_long_for_the_upstream_is_refused_as_such(dialect: DialectClient) -> None:
    upstream = echo_app(engine=EchoEngine(context_length=64))
    async with serving(upstream) as url, in_front_of(url) as client:
        response = await client.post(dialect.path("echo"), json=dialect.body("echo", "word " * 50))
    assert response.status_code == dialect.overflow_status, response.text


async def test_a_dragoman_reports_the_requests_of_others() -> None:
    busy = GatedEcho(is_open=False)
    async with (
        serving(echo_app(engine=busy, keys=[KEY])) as url,
        httpx.AsyncClient(base_url=url, timeout=TEST_TIMEOUT_SECONDS) as other,
    ):
        client = UpstreamClient(UpstreamAddress.parse(url), key=SecretText(KEY))
        engine = UpstreamEngine("echo/0", client, model="echo", kind="dragoman")
        assert await engine.read_load()
        assert engine.load_reports.read() == ReportedLoad(other_requests=0)
        body = {"model": "echo", "prompt": "Hello"}
        headers = {"authorization": f"Bearer {KEY}"}
        asking = asyncio.create_task(other.post("/v1/completions", json=body, headers=headers))
        await busy.generation_started.wait()
        await engine.read_load()
        assert engine.load_reports.read() == ReportedLoad(other_requests=1)
        busy.gate.set()
        await asking
        await engine.close()


async def test_a_client_that_leaves_ends_the_work_at_the_upstream(dialect: DialectClient) -> None:
    engine = GatedEcho(is_open=False)
    async with serving(echo_app(engine=engine)) as url, in_front_of(url) as client:
        for stream in (True, False):
            request = client.post(dialect.path("echo"), json=dialect.body("echo", "Hello", stream=stream))
            asking = asyncio.create_task(request)
            await engine.generation_started.wait()
            engine.generation_started.clear()
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking
        await until(lambda: engine.cancelled == 2)


@pytest.fixture(scope="module")
def llama_server() -> Iterator[str]:
    """llama.cpp's server with the bundled model: a real server of another kind, which needs a process of its own."""
    options = LlamaServerOptions(str(resolve(None, progress=False).path), context_cells=1024, parallel=1, threads=1)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.llama_server", msgspec.json.encode(options).decode()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


async def test_llama_cpps_server_answers_in_every_dialect(llama_server: str, dialect: DialectClient) -> None:
    async with httpx.AsyncClient() as direct:
        [model] = (await direct.get(f"{llama_server}/v1/models")).json()["data"]
    async with in_front_of(llama_server, model["id"]) as client:
        whole = await ask(client, dialect, "The capital of France is", temperature=0, max_tokens=8)
        assert whole.text
        assert whole.completion_tokens == 8
        assert await ask(client, dialect, "The capital of France is", temperature=0, max_tokens=8, stream=True) == whole


async def test_llama_cpps_server_continues_a_message(llama_server: str) -> None:
    messages = [{"role": "user", "content": "Count to ten"}, {"role": "assistant", "content": "1, 2, 3, 4,"}]
    body = {"messages": messages, "temperature": 0, "max_tokens": 6}
    async with httpx.AsyncClient() as direct:
        [model] = (await direct.get(f"{llama_server}/v1/models")).json()["data"]
        expected = (await direct.post(f"{llama_server}/v1/chat/completions", json=body)).json()
    async with in_front_of(llama_server, model["id"]) as client:
        body |= {"model": "echo", "continue_final_message": True, "add_generation_prompt": False}
        answer = (await client.post("/v1/chat/completions", json=body)).json()
    assert answer["choices"][0]["message"]["content"] == expected["choices"][0]["message"]["content"]
    assert answer["usage"]["prompt_tokens"] == expected["usage"]["prompt_tokens"]


VLLM = os.environ.get("DRAGOMAN_TEST_VLLM", "")
"""The URL of a vLLM server that serves a chat model and was started with --enable-auto-tool-choice."""

MAX_LONG_WORDS = 15_000
"""Of a prompt that the app of these tests takes."""

needs_vllm = pytest.mark.skipif(not VLLM, reason="DRAGOMAN_TEST_VLLM names no server: set it to the URL of a vLLM")


async def vllm_model() -> Any:
    async with httpx.AsyncClient() as direct:
        return (await direct.get(f"{VLLM}/v1/models")).json()["data"][0]


@contextlib.asynccontextmanager
async def in_front_of_vllm() -> AsyncGenerator[httpx.AsyncClient]:
    async with in_front_of(VLLM, (await vllm_model())["id"]) as client:
        yield client


async def vllm_metric(name: str) -> float:
    async with httpx.AsyncClient() as direct:
        lines = (await direct.get(f"{VLLM}/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def chat(text: str, **fields: object) -> dict[str, object]:
    messages = [{"role": "user", "content": text}]
    return {"model": "echo", "messages": messages, "max_tokens": 48, "temperature": 0, **fields}


async def answered(client: httpx.AsyncClient, body: dict[str, object], path: str = "/v1/chat/completions") -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


@needs_vllm
async def test_vllm_answers_in_every_dialect(dialect: DialectClient) -> None:
    async with in_front_of_vllm() as client:
        whole = await ask(client, dialect, "The capital of France is", temperature=0, max_tokens=8)
        assert whole.text
        assert await ask(client, dialect, "The capital of France is", temperature=0, max_tokens=8, stream=True) == whole
        if (context := (await vllm_model())["max_model_len"]) < MAX_LONG_WORDS:
            long = await client.post(dialect.path("echo"), json=dialect.body("echo", "word " * context))
            assert long.status_code == dialect.overflow_status, long.text
            assert dialect.is_error(long.json())


@needs_vllm
async def test_vllm_counts_what_it_charges() -> None:
    async with in_front_of_vllm() as client:
        document = await answered(client, chat("How many tokens are this?"))
        counted = await answered(
            client, {"model": "echo", "messages": chat("How many tokens are this?")["messages"]}, "/tokenize"
        )
        assert document["usage"]["prompt_tokens"] == counted["count"]
        text = await answered(client, {"model": "echo", "tokens": counted["tokens"]}, "/detokenize")
        assert "How many tokens are this?" in text["prompt"]
        metrics = (await client.get("/metrics")).text
        assert 'dragoman_upstream_usage_source_total{model="echo",source="upstream"} 1.0' in metrics


@needs_vllm
async def test_vllm_enforces_patterns_schemas_and_calls() -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8}},
        "required": ["city"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "weather", "parameters": schema}}
    async with in_front_of_vllm() as client:
        [choice] = (await answered(client, chat("Hello", structured_outputs={"regex": "[a-c]{5}x"})))["choices"]
        assert re.fullmatch("[a-c]{5}x", choice["message"]["content"])
        form = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}}
        [choice] = (await answered(client, chat("Name a city", response_format=form)))["choices"]
        assert set(json.loads(choice["message"]["content"])) == {"city"}
        for wanted in ("required", {"type": "function", "function": {"name": "weather"}}):
            [choice] = (await answered(client, chat("The weather?", tools=[tool], tool_choice=wanted)))["choices"]
            [call] = choice["message"]["tool_calls"]
            assert call["function"]["name"] == "weather"
            assert set(json.loads(call["function"]["arguments"])) == {"city"}
            # A small model may fill the rest of its tokens with white space, which the grammar of calls allows.
            assert choice["finish_reason"] in ("tool_calls", "length")


@needs_vllm
async def test_vllm_reports_several_choices_with_their_log_probabilities() -> None:
    body = chat(
        "Name a color", n=2, seed=5, temperature=1, max_tokens=3, ignore_eos=True, logprobs=True, top_logprobs=2
    )
    async with in_front_of_vllm() as client:
        document = await answered(client, body)
        assert [choice["index"] for choice in document["choices"]] == [0, 1]
        for choice in document["choices"]:
            entries = choice["logprobs"]["content"]
            assert len(entries) == 3
            assert "".join(entry["token"] for entry in entries) == choice["message"]["content"]
            assert all(len(entry["top_logprobs"]) == 2 for entry in entries)
        assert document["usage"]["completion_tokens"] == 6


@needs_vllm
@pytest.mark.parametrize("stream", [False, True])
async def test_vllm_stops_for_a_client_that_has_left(*, stream: bool) -> None:
    max_tokens = (await vllm_model())["max_model_len"] // 2
    before = await vllm_metric("vllm:generation_tokens_total")
    async with in_front_of_vllm() as client, asyncio.timeout(TEST_TIMEOUT_SECONDS):
        body = chat("Count", stream=stream, max_tokens=max_tokens, ignore_eos=True)
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=body))
        while not await vllm_metric("vllm:num_requests_running"):
            pass
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        while await vllm_metric("vllm:num_requests_running"):
            pass
    assert await vllm_metric("vllm:generation_tokens_total") - before < max_tokens
