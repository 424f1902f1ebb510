"""Several models in one server, loaded by their first request, with real processes."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dragoman.core.context import key_digest
from dragoman.server.control import ModelChangeRefused, request_model_change, server_process
from dragoman.server.runtime_folder import folders_in_use
from tests.support.server import ENGINE_PROCESS, WORKER_PROCESS, RunningServer, running_server
from tests.support.timeouts import TEST_TIMEOUT_SECONDS, wait_until
from tests.support.tiny_llama import random_weights, write_model

TWO_MODELS = """
[[deployments]]
name = "loud"
model = "echo"
dialects = ["infermatic", "float16"]
tool_format = "llama3"

[[deployments]]
name = "smol"
model = "smollm2-135m-instruct"
load = "lazy"
unload_idle_seconds = 0.5
dialects = ["infermatic", "arcee"]

[[deployments]]
name = "kept"
model = "{tiny}"
load = "lazy"
dialects = ["scale"]

[engine]
kv_cache_tokens = 1024
threads = 1
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    path = tmp_path_factory.mktemp("settings") / "dragoman.toml"
    tiny = write_model(path.with_name("tiny.gguf"), random_weights(1))
    path.write_text(TWO_MODELS.format(tiny=tiny))
    with running_server("--config", str(path), records_usage=False) as server:
        yield server


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=TEST_TIMEOUT_SECONDS) as client:
        yield client


def chat(client: httpx.Client, model: str) -> Any:
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "min_tokens": 3}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def tool_format(client: httpx.Client, model: str) -> str | None:
    found: str | None = client.get(f"/v1/models/{model}").json().get("tool_format")
    return found


def test_a_lazy_model_is_loaded_unloaded_when_idle_and_loaded_again(
    server: RunningServer, client: httpx.Client
) -> None:
    assert server.children(ENGINE_PROCESS) == []
    assert chat(client, "loud")["choices"][0]["message"]["content"] == "Hi"
    assert server.children(ENGINE_PROCESS) == []
    assert tool_format(client, "loud") == "llama3"
    assert tool_format(client, "smol") is None, "the model is not loaded"
    assert chat(client, "smol")["usage"]["completion_tokens"] == 3
    wait_until(lambda: not server.children(ENGINE_PROCESS), "an idle model is unloaded")
    assert chat(client, "smollm2-135m-instruct")["usage"]["completion_tokens"] == 3


def test_an_operator_loads_and_unloads_a_model(server: RunningServer) -> None:
    # An engine's process, since its end is what unloads the model.
    folder = next(folder for folder in folders_in_use() if server_process(folder) == server.process.pid)

    def engines() -> list[int]:
        return server.children(ENGINE_PROCESS)

    wait_until(lambda: not engines(), "the idle model of another test is unloaded")
    request_model_change(folder, "load", "kept")
    wait_until(lambda: bool(engines()), "the model is loaded")
    request_model_change(folder, "load", "kept")
    request_model_change(folder, "unload", "kept")
    wait_until(lambda: not engines(), "it is unloaded once it is loaded")
    for model in ("loud", "nothing"):
        with pytest.raises(ModelChangeRefused, match="no engine"):
            request_model_change(folder, "load", model)


def test_a_dialect_serves_only_its_deployments(client: httpx.Client) -> None:
    assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["loud", "smol"]
    assert [card["id"] for card in client.get("/api/v1/models").json()["data"]] == ["smol"]
    body = {"model": "loud", "messages": [{"role": "user", "content": "Hi"}]}
    assert client.post("/api/v1/chat/completions", json=body).status_code == 422
    assert client.post("/loud/v1/chat/completions", json=body).status_code == 200


def test_an_address_that_others_can_reach_needs_keys_or_allow_unauthenticated() -> None:
    command = [sys.executable, "-m", "dragoman", "serve", "echo", "--host", "0.0.0.0", "--port", "0"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=TEST_TIMEOUT_SECONDS, check=False)
    assert refused.returncode == 2
    assert "there are no keys" in refused.stderr
    with running_server("echo", "--host", "0.0.0.0", "--allow-unauthenticated", records_usage=False) as server:
        assert server.stop(signal.SIGTERM) == 0


def test_configured_keys_authenticate_and_appear_in_no_process_arguments(tmp_path: Path) -> None:
    key = "sk-0123456789abcdef"
    path = tmp_path / "keys.toml"
    path.write_text(f'[[keys]]\nname = "me"\nkey = "{key}"\n')
    with running_server("echo", "--config", str(path), records_usage=False) as server:
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal() and int(folder.name) in server.children(WORKER_PROCESS):
                arguments = folder.joinpath("cmdline").read_text()
                assert key not in arguments
                assert key_digest(key) not in arguments
        assert httpx.get(f"{server.url}/v1/models", timeout=TEST_TIMEOUT_SECONDS).status_code == 401
        headers = {"Authorization": f"Bearer {key}"}
        allowed = httpx.get(f"{server.url}/v1/models", headers=headers, timeout=TEST_TIMEOUT_SECONDS)
        assert allowed.status_code == 200
