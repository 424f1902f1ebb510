"""The server's processes when one of them dies, is overloaded or stopped."""

import asyncio
import json
import os
import platform
import re
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from dragoman.engines.llama.weights.sources import bundled
from tests.support.dialects.streams import StreamedResponse, chat_body, read_stream
from tests.support.gguf_files import write_tiny_model
from tests.support.server import ENGINE_PROCESS, TWO_THREADS, WORKER_PROCESS, RunningServer, running_server
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

TIMEOUT = httpx.Timeout(TEST_TIMEOUT_SECONDS)


async def test_when_the_engine_is_killed_every_stream_ends_properly_and_the_next_request_works() -> None:
    with running_server(records_usage=False) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client:
            started = [asyncio.Event() for _ in range(16)]
            streams = [
                asyncio.create_task(
                    _stream(client, chat_body(f"Tell me about {n}", max_tokens=200, ignore_eos=True), on)
                )
                for n, on in enumerate(started)
            ]
            await asyncio.wait_for(asyncio.gather(*(event.wait() for event in started)), TEST_TIMEOUT_SECONDS)
            (engine,) = server.children(ENGINE_PROCESS)
            os.kill(engine, signal.SIGKILL)
            answers = await asyncio.wait_for(asyncio.gather(*streams), TEST_TIMEOUT_SECONDS)
            for answer in answers:
                assert answer.done != (answer.error is not None), "a complete answer or an error, never neither"
            assert any(answer.error for answer in answers)
            # No retry is needed: the request waits for the new engine process.
            response = await client.post("/v1/chat/completions", json=chat_body("Hi", max_tokens=4))
            assert response.status_code == 200
            assert server.children(ENGINE_PROCESS) != [engine]


async def test_a_request_without_tokens_yet_survives_an_engine_crash() -> None:
    with running_server("--max-sequences", "1", records_usage=False) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client:
            running = asyncio.Event()
            first = asyncio.create_task(
                _stream(client, chat_body("Tell me a story", max_tokens=300, ignore_eos=True), running)
            )
            await _first_text(first, running)
            waiting = asyncio.create_task(client.post("/v1/chat/completions", json=chat_body("Hi", max_tokens=4)))
            await _wait_for_metric(client, "dragoman_waiting_sequences", 1)
            (engine,) = server.children(ENGINE_PROCESS)
            os.kill(engine, signal.SIGKILL)
            assert (await waiting).status_code == 200
            assert (await first).error is not None


async def test_a_killed_worker_is_replaced() -> None:
    with running_server("echo", records_usage=False) as server:
        (worker,) = server.children(WORKER_PROCESS)
        os.kill(worker, signal.SIGKILL)
        async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client:
            # The listening socket is the parent's: the connection waits in its backlog for the new worker.
            assert (await client.get("/health")).status_code == 200
        assert server.children(WORKER_PROCESS) != [worker]


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_client_that_goes_away_frees_its_sequence(model_server: RunningServer, streamed: bool) -> None:
    async with httpx.AsyncClient(base_url=model_server.url, timeout=TIMEOUT) as client:
        body = chat_body("Count for ever", max_tokens=4000, ignore_eos=True, stream=streamed)
        async with httpx.AsyncClient(base_url=model_server.url, timeout=TIMEOUT) as leaving:
            request = asyncio.create_task(leaving.post("/v1/chat/completions", json=body))
            await _wait_for_metric(client, "dragoman_running_sequences", 1)
            request.cancel()
            await asyncio.wait([request])
        await _wait_for_metric(client, "dragoman_running_sequences", 0)
        assert await _metric(client, "dragoman_kv_cache_used_cells") == 0


async def test_requests_beyond_max_waiting_requests_get_429_with_retry_after() -> None:
    with running_server("--max-sequences", "1", "--max-waiting-requests", "2", records_usage=False) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client:
            running = asyncio.Event()
            long = chat_body("Tell me a story", max_tokens=3000, ignore_eos=True)
            first = asyncio.create_task(_stream(client, long, running))
            await _first_text(first, running)
            others = [
                asyncio.create_task(client.post("/v1/chat/completions", json=chat_body("Hi", max_tokens=2)))
                for _ in range(2)
            ]
            await _wait_for_metric(client, "dragoman_waiting_sequences", 2)
            refused = await client.post("/v1/chat/completions", json=chat_body("Hi", max_tokens=2))
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert "waiting" in refused.json()["error"]["message"]
            first.cancel()
            assert [response.status_code for response in await asyncio.gather(*others)] == [200, 200]


async def test_sigterm_lets_running_answers_finish_and_ends_with_status_0() -> None:
    with running_server(records_usage=False) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client:
            running = asyncio.Event()
            body = chat_body("Tell me a story", max_tokens=60, ignore_eos=True)
            answer = asyncio.create_task(_stream(client, body, running))
            await _first_text(answer, running)
            server.process.send_signal(signal.SIGTERM)
            finished = await answer
            assert finished.done
            assert finished.usage == {**(finished.usage or {}), "completion_tokens": 60}
            assert await asyncio.to_thread(server.process.wait, TEST_TIMEOUT_SECONDS) == 0
            with pytest.raises(httpx.ConnectError):
                await client.get("/health")


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_server_that_drains_refuses_connections(workers: str) -> None:
    # They waited in its socket, to be lost at its end; a balancer takes another server for one that is refused.
    slow = {"DRAGOMAN_ECHO_TOKENS_PER_SECOND": "10"}
    with running_server("echo", "--workers", workers, environment=slow, records_usage=False) as server:
        url = httpx.URL(server.url)
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as client:
            running = asyncio.Event()
            answer = asyncio.create_task(_stream(client, chat_body("a" * 40, model="echo", max_tokens=40), running))
            await _first_text(answer, running)
            server.process.send_signal(signal.SIGTERM)
            while await _accepts_connections(url):
                assert not answer.done()
            assert server.process.poll() is None
            assert (await answer).done
            assert await asyncio.to_thread(server.process.wait, TEST_TIMEOUT_SECONDS) == 0


async def test_an_answer_longer_than_the_drain_limit_is_cut_and_the_server_ends() -> None:
    with running_server(environment={"DRAGOMAN_DRAIN_SECONDS": "1"}, records_usage=False) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client:
            running = asyncio.Event()
            body = chat_body("Tell me a story", max_tokens=8000, ignore_eos=True)
            answer = asyncio.create_task(_stream(client, body, running))
            await _first_text(answer, running)
            assert await asyncio.to_thread(server.stop) == 0
            assert not (await answer).done


async def test_answers_longer_than_the_drain_limit_end_with_errors_that_say_why(tmp_path: Path) -> None:
    log = tmp_path / "log"
    environment = {"DRAGOMAN_DRAIN_SECONDS": "1", "DRAGOMAN_ECHO_TOKENS_PER_SECOND": "10"}
    path = "/openai/v1/chat/completions"
    body = chat_body("a" * 3000, model="echo", max_tokens=3000)
    with (
        log.open("w") as errors,
        running_server("echo", environment=environment, records_usage=False, errors=errors) as server,
    ):
        async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client:
            collected = asyncio.create_task(client.post(path, json=body))
            async with client.stream("POST", path, json={**body, "stream": True}) as streamed:
                lines = streamed.aiter_lines()
                await anext(lines)
                server.process.send_signal(signal.SIGTERM)
                *_, last = [line async for line in lines if line]
            assert json.loads(last.removeprefix("data: "))["error"]["message"] == "The server is shutting down"
            refused = await collected
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert await asyncio.to_thread(server.process.wait, TEST_TIMEOUT_SECONDS) == 0
    logged = log.read_text()
    assert ("requests_cut_off" in logged, "Traceback" in logged) == (True, False)


async def test_several_workers_share_one_engine() -> None:
    with running_server("--workers", "2", environment=TWO_THREADS, records_usage=False) as server:
        workers = server.children(WORKER_PROCESS)
        assert len(workers) == 2
        assert len(server.children(ENGINE_PROCESS)) == 1
        if sys.platform == "linux":
            assert all(_kibibytes(worker, "Shared_Dirty") > _kibibytes(worker, "Private_Dirty") for worker in workers)
        body = chat_body("What is the capital of France?", temperature=0, max_tokens=12)

        async def send() -> httpx.Response:
            async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client:
                return await client.post("/v1/chat/completions", json=body)

        first = await send()  # The others find its prompt, also if they all come in one step.
        answers = [response.json() for response in (first, *await asyncio.gather(*(send() for _ in range(15))))]
        assert all("Paris" in answer["choices"][0]["message"]["content"] for answer in answers)
        cached = sorted(answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in answers)
        assert cached[0] == 0
        assert cached[-1] > 0
        async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client:
            prompt_tokens = answers[0]["usage"]["prompt_tokens"]
            assert await _metric(client, "dragoman_prompt_tokens_total") == 16 * prompt_tokens
            assert await _metric(client, "dragoman_cached_prompt_tokens_total") == sum(cached)


def test_truncated_invalid_and_missing_model_files_are_reported_in_one_line(tmp_path: Path) -> None:
    truncated, invalid = tmp_path / "truncated.gguf", tmp_path / "invalid.gguf"
    with bundled().path.open("rb") as source:
        truncated.write_bytes(source.read(2**21))
    invalid.write_bytes(b"once upon a time " * 1000)
    for path in (truncated, invalid, tmp_path / "missing.gguf"):
        status, errors = _failing_start(str(path))
        assert status == 2
        (line,) = [line for line in errors.splitlines() if line.startswith("dragoman: ")]
        assert path.name in line
        assert "Traceback" not in errors


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="measured there only")
def test_a_slow_model_is_served_from_a_copy_unless_that_is_disabled(tmp_path: Path) -> None:
    model = str(write_tiny_model(tmp_path / "tiny.gguf"))
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    with running_server(model, "--requantize", "never", environment=cache, records_usage=False) as server:
        assert model in _engine_arguments(server)
    with running_server(model, environment=cache, records_usage=False) as server:
        [copy] = tmp_path.joinpath("cache", "dragoman", "rewritten").glob("*.gguf")
        assert str(copy) in _engine_arguments(server)


def _engine_arguments(server: RunningServer) -> str:
    [engine] = server.children(ENGINE_PROCESS)
    return Path(f"/proc/{engine}/cmdline").read_text()


def test_a_port_in_use_is_reported_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, errors = _failing_start("echo", "--port", str(port))
    assert status == 2
    assert re.fullmatch(rf"dragoman: cannot listen on 127\.0\.0\.1:{port}: .*--port\n", errors)


def test_no_child_outlives_a_killed_server_and_its_port_is_free_whatever_its_children_do() -> None:
    with running_server(records_usage=False) as server:
        children = server.children(ENGINE_PROCESS) + server.children(WORKER_PROCESS)
        descriptors = [os.pidfd_open(child) for child in children]
        for child in children:
            os.kill(child, signal.SIGSTOP)  # They cannot notice anything.
        server.process.kill()
        server.process.wait()
        for descriptor in descriptors:
            _wait_for_end(descriptor)
        with socket.create_server(("127.0.0.1", httpx.URL(server.url).port or 0)):
            pass


def _wait_for_end(descriptor: int) -> None:
    readable, _, _ = select.select([descriptor], [], [], TEST_TIMEOUT_SECONDS)
    os.close(descriptor)
    assert readable, "the child is still running"


def _kibibytes(process_id: int, kind: str) -> int:
    """Return how much of a kind of memory a process has (proc_pid_smaps(5))."""
    lines = Path(f"/proc/{process_id}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:"))


def _failing_start(*arguments: str) -> tuple[int, str]:
    result = subprocess.run(
        [sys.executable, "-m", "dragoman", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=TEST_TIMEOUT_SECONDS,
        check=False,
    )
    return result.returncode, result.stderr


async def _accepts_connections(url: httpx.URL) -> bool:
    try:
        _, writer = await asyncio.open_connection(url.host, url.port)
    except ConnectionError:
        return False
    writer.close()
    return True


async def _stream(client: httpx.AsyncClient, body: dict[str, object], started: asyncio.Event) -> StreamedResponse:
    """Read a stream to its end. Set `started` at its first text."""
    answer = StreamedResponse()
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.status_code == 200, await response.aread()
            async for answer in read_stream(response):
                if answer.text:
                    started.set()
    except httpx.RemoteProtocolError:
        assert not answer.done
    return answer


async def _first_text(stream: asyncio.Task[StreamedResponse], started: asyncio.Event) -> None:
    """Wait for the first text of a stream. Fail with the stream if it ends without any."""
    waiting = asyncio.create_task(started.wait())
    await asyncio.wait((stream, waiting), timeout=TEST_TIMEOUT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    assert started.is_set(), stream.result() if stream.done() else "there is no text yet"


async def _metric(client: httpx.AsyncClient, name: str) -> float:
    text = (await client.get("/metrics")).text
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + "{"))


async def _wait_for_metric(client: httpx.AsyncClient, metric: str, value: float) -> None:
    """Poll the metrics until one has a value."""
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        while await _metric(client, metric) != value:
            pass
