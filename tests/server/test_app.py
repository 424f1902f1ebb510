import contextlib
import json
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from dragoman.core.capabilities import ALL_CAPABILITIES, Capability
from dragoman.core.errors import EngineFailed
from dragoman.core.events import Delta, Event, Finished, Usage
from dragoman.core.models import TokenizedPrompt
from dragoman.core.request import GenerationRequest, Prompt
from dragoman.dialects.http.context import HttpOptions
from dragoman.engines.base import Engine, EngineStatistics
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.routing.catalog import Catalog, Deployment
from dragoman.server.app import App, build_app
from tests.support.accounting import accounting_at
from tests.support.apps import client_of, running_app

OPTIONS = HttpOptions(max_body_bytes=1000, keep_alive_seconds=60)
ONCE = {"model": "echo", "prompt": "Once"}


class LateEngine:
    """A minimal engine. It answers every request with one letter, once `ready` is set."""

    capabilities: frozenset[Capability] = ALL_CAPABILITIES
    context_length: int | None = None
    adapters = None
    fingerprint = None
    supports_reasoning = False
    tool_format = None

    def __init__(self) -> None:
        self.ready = False
        self.failure: str | None = None
        self.lifecycle: list[str] = []

    async def start(self) -> None:
        self.lifecycle.append("started")

    async def close(self) -> None:
        self.lifecycle.append("closed")

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        yield Delta(0, "A", [65])
        if not self.ready:
            raise EngineFailed("The engine stopped")
        yield Finished(0, "stop")
        yield Usage(1, 1, 1)

    async def count_tokens(self, prompt: Prompt) -> int:
        return 1

    async def tokenize(self, prompt: Prompt) -> TokenizedPrompt:
        return TokenizedPrompt((65,), ("A",))

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return "A" * len(token_ids)

    async def statistics(self) -> EngineStatistics:
        if not self.ready:
            raise EngineFailed("The engine is not running")
        return EngineStatistics(running=1, waiting=2, kv_cells_used=3, kv_cells_cached=4, kv_cells_total=5)


def app_of(*deployments: tuple[str, Engine]) -> App:
    catalog = Catalog([Deployment.of(name, (), engine) for name, engine in deployments])
    return build_app(catalog, OPTIONS, metrics_directory=None)


@contextlib.asynccontextmanager
async def running(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """Start the app, and open a client of it."""
    async with running_app(app), client_of(app) as client:
        yield client


async def metric(client: httpx.AsyncClient, name: str, **labels: str) -> float | None:
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            if sample.name == f"dragoman_{name}" and sample.labels == labels:
                return float(sample.value)
    return None


async def test_engines_are_started_and_closed_with_the_app() -> None:
    first, second = LateEngine(), LateEngine()
    async with running(app_of(("first", first), ("second", second))):
        assert first.lifecycle == second.lifecycle == ["started"]
    assert first.lifecycle == second.lifecycle == ["started", "closed"]


async def test_the_server_is_healthy_before_it_is_ready() -> None:
    engine = LateEngine()
    async with running(app_of(("late", engine), ("echo", EchoEngine()))) as client:
        assert (await client.get("/health")).json() == {"status": "ok"}
        early = await client.get("/ready")
        assert (early.status_code, early.json()) == (503, {"status": "loading", "models": ["late"]})
        assert early.headers["retry-after"] == "1"
        engine.ready = True
        late = await client.get("/ready")
        assert (late.status_code, late.json()) == (200, {"status": "ready"})


async def test_a_model_that_cannot_be_loaded_is_told_apart_and_its_reason_is_for_the_operator() -> None:
    engine = LateEngine()
    engine.failure = "/models/secret.gguf is damaged"
    async with running(app_of(("late", engine), ("echo", EchoEngine()))) as client:
        response = await client.get("/ready")
        expected = {"status": "unavailable", "models": ["late"], "failed": ["late"]}
        assert (response.status_code, response.json()) == (503, expected)
        assert await metric(client, "engine_failed", model="late") == 1
        assert await metric(client, "engine_failed", model="echo") == 0


async def test_a_loaded_engine_that_does_not_answer_is_told_apart() -> None:
    engine = LateEngine()
    engine.context_length = 1024
    async with running(app_of(("late", engine))) as client:
        response = await client.get("/ready")
    assert response.json() == {"status": "unavailable", "models": ["late"], "not_answering": ["late"]}


async def test_accounts_that_do_not_answer_are_not_ready(tmp_path: Path) -> None:
    database_url = f"sqlite:///{tmp_path}/accounts.db"
    database = Database(database_url)
    upgrade(database)
    with accounting_at(database_url, tmp_path / "journals") as accounting:
        app = build_app(
            Catalog([Deployment.of("echo", (), EchoEngine())]),
            OPTIONS,
            metrics_directory=None,
            accounting=accounting,
            ready_timeout_seconds=0.1,
        )
        async with running_app(app), client_of(app) as client:
            with database.write():
                locked = await client.get("/ready")
                again = await client.get("/ready")
            assert (locked.status_code, locked.json()) == (503, {"status": "unavailable", "accounts": "not answering"})
            assert again.json() == locked.json(), "asked a moment ago"
    database.close()


async def test_metrics_survive_the_removal_of_their_directory(tmp_path: Path) -> None:
    directory = tmp_path / "metrics"
    directory.mkdir()
    app = build_app(Catalog([Deployment.of("echo", (), EchoEngine())]), OPTIONS, metrics_directory=str(directory))
    shutil.rmtree(directory)
    async with running(app) as client:
        await client.post("/v1/completions", json=ONCE)
        assert await metric(client, "requests_total", model="echo", result="ok") == 1


async def test_metrics_count_requests_tokens_and_results() -> None:
    async with running(app_of(("echo", EchoEngine()))) as client:
        await client.post("/v1/completions", json=ONCE)
        await client.post("/v1/completions", json=ONCE | {"prompt": ["one", "two"]})
        await client.post("/v1/completions", json=ONCE | {"prompt": ""})
        assert await metric(client, "requests_total", model="echo", result="ok") == 2
        assert await metric(client, "requests_total", model="echo", result="refused") == 1
        assert await metric(client, "prompt_tokens_total", model="echo") == 4 + 3 + 3
        assert await metric(client, "completion_tokens_total", model="echo") == 5 + 4 + 4
        assert await metric(client, "time_to_first_token_seconds_count", model="echo") == 2


async def test_metrics_count_failures_and_cached_tokens() -> None:
    engine = LateEngine()
    async with running(app_of(("late", engine))) as client:
        failed = await client.post("/v1/completions", json=ONCE | {"model": "late"})
        assert failed.status_code == 500
        engine.ready = True
        assert (await client.post("/v1/completions", json=ONCE | {"model": "late"})).status_code == 200
        assert await metric(client, "requests_total", model="late", result="failed") == 1
        assert await metric(client, "cached_prompt_tokens_total", model="late") == 1


async def test_metrics_show_the_state_of_every_engine_and_do_without_one_that_is_down() -> None:
    engine = LateEngine()
    async with running(app_of(("late", engine), ("echo", EchoEngine()))) as client:
        assert await metric(client, "engine_up", model="late") == 0
        assert await metric(client, "engine_up", model="echo") == 1
        assert await metric(client, "kv_cells", model="late") is None
        engine.ready = True
        assert await metric(client, "engine_up", model="late") == 1
        assert await metric(client, "kv_cells", model="late") == 5


async def test_an_engine_that_fails_in_a_stream_ends_it_with_the_error_and_without_done() -> None:
    async with running(app_of(("late", LateEngine()))) as client:
        response = await client.post("/v1/completions", json=ONCE | {"model": "late", "stream": True})
    assert response.status_code == 200
    first, last, rest = response.text.split("\n\n")
    assert json.loads(first.removeprefix("data: "))["choices"][0]["text"] == "A"
    assert json.loads(last.removeprefix("data: ")) == {
        "error": {
            "message": "litellm.InternalServerError: The engine stopped",
            "type": "internal_server_error",
            "param": "None",
            "code": "500",
        }
    }
    assert rest == ""


@pytest.mark.parametrize("stream", [True, False])
async def test_a_draining_server_answers_503_with_retry_after(stream: bool) -> None:
    app = app_of(("echo", EchoEngine()))
    async with running(app) as client:
        app.drain()
        response = await client.post("/v1/completions", json=ONCE | {"stream": stream})
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        message = response.json()["error"]["message"]
        assert message.startswith("litellm.ServiceUnavailableError: The server is shutting down")
        assert (await client.get("/health")).status_code == 200


async def test_bodies_above_the_configured_limit_are_refused() -> None:
    async with running(app_of(("echo", EchoEngine()))) as client:
        assert (await client.post("/v1/completions", json=ONCE | {"user": "x" * 1000})).status_code == 413


async def test_unknown_paths_and_methods_are_answered_in_json() -> None:
    async with running(app_of(("echo", EchoEngine()))) as client:
        assert (await client.get("/nowhere")).json() == {"detail": "Not Found"}
        assert (await client.post("/health")).json() == {"detail": "Method Not Allowed"}
        assert (await client.get("/health/")).json() == {"status": "ok"}
