"""Adapters in a real server: every worker knows them, as long as the server runs."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.server import ENGINE_PROCESS, WORKER_PROCESS, RunningServer, running_server
from tests.support.timeouts import TEST_TIMEOUT_SECONDS
from tests.support.tiny_llama import random_lora_updates, random_weights, write_adapter, write_model

LORA = "/empower/api/v1/lora"
MODELS = ["tiny", "settled", "brought"]


def write_settings(folder: Path, extra: str = "") -> Path:
    """Write a model, an adapter that the settings load, and one in adapter_dir that they do not load."""
    write_model(folder / "tiny.gguf", random_weights(0))
    write_adapter(folder / "settled.gguf", random_lora_updates(1))
    (folder / "adapters").mkdir()
    write_adapter(folder / "adapters" / "brought.gguf", random_lora_updates(2))
    path = folder / "dragoman.toml"
    path.write_text(f"""
workers = 2
adapter_dir = "{folder / "adapters"}"

[engine]
kv_cache_tokens = 1024
threads = 1
reproducible = true

[[deployments]]
name = "tiny"
model = "{folder / "tiny.gguf"}"
{extra}

[[adapters]]
name = "settled"
path = "{folder / "settled.gguf"}"
aliases = ["calm"]
""")
    return path


@contextlib.asynccontextmanager
async def client_of(server: RunningServer) -> AsyncIterator[httpx.AsyncClient]:
    """Open a client with a connection for each request, so that both workers get requests."""
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=server.url, timeout=TEST_TIMEOUT_SECONDS, limits=limits) as client:
        yield client


async def complete(client: httpx.AsyncClient, model: str, prompt: str = "Once upon a time") -> str:
    body = {"model": model, "prompt": prompt, "max_tokens": 24, "temperature": 0, "ignore_eos": True}
    response = await client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["text"]
    return text


async def register(client: httpx.AsyncClient) -> Any:
    body = {"model_name": "brought", "model_source": "LOCAL"}
    response = await client.post(LORA, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def list_models(client: httpx.AsyncClient) -> list[str]:
    return [card["id"] for card in (await client.get("/empower/models")).json()["data"]]


async def test_an_adapter_is_known_to_all_workers_and_survives_the_engine(tmp_path: Path) -> None:
    with running_server("--config", str(write_settings(tmp_path)), records_usage=False) as server:
        async with client_of(server) as client:
            assert await list_models(client) == ["tiny", "settled"]
            registered = await register(client)
            assert registered["active_deployment"]["base_model_name"] == "tiny"
            for _ in range(20):
                assert await list_models(client) == MODELS
            alone = {model: await complete(client, model) for model in MODELS}
            assert len(set(alone.values())) == len(MODELS)
            assert await complete(client, "calm") == alone["settled"]
            together = await asyncio.gather(*(complete(client, MODELS[number % 3]) for number in range(24)))
            assert together == [alone[MODELS[number % 3]] for number in range(24)]

            (engine,) = server.children(ENGINE_PROCESS)
            os.kill(engine, signal.SIGKILL)
            assert {model: await complete(client, model) for model in MODELS} == alone
            assert server.children(ENGINE_PROCESS) != [engine]
            assert await register(client) == registered, "the same registration is no error"
            for worker in server.children(WORKER_PROCESS):
                os.kill(worker, signal.SIGKILL)
            assert await list_models(client) == MODELS

            removed = await client.delete(f"{LORA}/brought")
            assert (removed.status_code, removed.json()) == (200, registered)
            for _ in range(20):
                assert await list_models(client) == ["tiny", "settled"]
            assert (await client.delete(f"{LORA}/settled")).status_code == 200
            assert await list_models(client) == ["tiny"]
            assert await complete(client, "tiny") == alone["tiny"]
            gone = await client.post("/v1/completions", json={"model": "brought", "prompt": "Once"})
            assert gone.status_code == 400


async def test_an_adapter_is_restored_when_its_model_is_reloaded(tmp_path: Path) -> None:
    settings = write_settings(tmp_path, 'load = "lazy"\nunload_idle_seconds = 0.3')
    with running_server("--config", str(settings), records_usage=False) as server:
        async with client_of(server) as client:
            assert await list_models(client) == ["tiny", "settled"]
            await register(client)
            before = [await complete(client, model) for model in MODELS]
            async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
                while server.children(ENGINE_PROCESS):
                    await asyncio.to_thread(os.sched_yield)
            assert await list_models(client) == MODELS
            assert [await complete(client, model) for model in MODELS] == before


async def test_an_answer_that_started_with_an_adapter_is_finished_after_its_removal(tmp_path: Path) -> None:
    with running_server("--config", str(write_settings(tmp_path)), records_usage=False) as server:
        async with client_of(server) as client:
            body = {"model": "settled", "prompt": "Once", "max_tokens": 400, "temperature": 0, "ignore_eos": True}
            async with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as response:
                lines = response.aiter_lines()
                await anext(lines)
                assert (await client.delete(f"{LORA}/settled")).status_code == 200
                rest = [line async for line in lines]
            assert [line for line in rest if line][-1] == "data: [DONE]"
            assert await list_models(client) == ["tiny"]


@pytest.mark.parametrize(
    ("name", "file", "expected"),
    [
        ("absent", "absent.gguf", "the adapter absent cannot be served: there is no adapter file"),
        ("wide", "wide.gguf", "the adapter wide cannot be served: wide.gguf cannot be used"),
    ],
)
async def test_an_unusable_adapter_stops_the_start_with_one_line(
    tmp_path: Path, name: str, file: str, expected: str
) -> None:
    settings = write_settings(tmp_path)
    write_adapter(tmp_path / "wide.gguf", {"output.weight": random_lora_updates(1)["blk.0.ffn_up.weight"]})
    with settings.open("a") as text:
        text.write(f'\n[[adapters]]\nname = "{name}"\npath = "{tmp_path / file}"\n')
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dragoman", "serve", "--port", "0", "--config", str(settings)),
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        _, errors = await process.communicate()
    assert process.returncode == 2
    [line] = [line for line in errors.decode().splitlines() if line.startswith("dragoman: ")]
    assert expected in line
