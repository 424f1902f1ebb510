"""The settings in docs/clients.md, used by the programs they are for. Each is skipped where its program is missing.

The programs are processes of their own, and so need a server in one.
"""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.ports import free_port
from tests.support.server import RunningServer, running_server
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

GUIDE = Path(__file__).parents[2] / "docs" / "clients.md"
DOCUMENTED_URL, DOCUMENTED_MODEL = "http://127.0.0.1:8000", "smollm2-135m-instruct"
QUESTION = "What is the capital of France?"


def needs(program: str) -> pytest.MarkDecorator:
    """Skip the test where the program is missing."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def block_of(section: str, language: str, server: RunningServer) -> str:
    """Return the section's block of code, for this server and the model `echo`."""
    text = GUIDE.read_text(encoding="utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found is not None
    assert DOCUMENTED_URL in found[1]
    return found[1].replace(DOCUMENTED_URL, server.url).replace(DOCUMENTED_MODEL, "echo").replace("my-model", "echo")


def variables(block: str) -> dict[str, str]:
    """Return the variables that a block of shell commands exports."""
    return dict(re.findall(r"export (\w+)=(\S+)", block))


def run(folder: Path, *command: str, environment: dict[str, str] | None = None) -> str:
    """Run a program in an empty home and return its output."""
    home = {"HOME": str(folder), "CONTINUE_TELEMETRY_ENABLED": "0", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
    ended = subprocess.run(
        command,
        env={**os.environ, **home, **(environment or {})},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TEST_TIMEOUT_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.strip()


@pytest.fixture(scope="module")
def roomy_server() -> Iterator[RunningServer]:
    """An echo engine for first requests that are longer than the shared server's context."""
    with running_server("echo", environment={"DRAGOMAN_ECHO_CONTEXT_LENGTH": "400000"}, records_usage=False) as server:
        yield server


@needs("codex")
def test_codex(roomy_server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / ".codex").mkdir()
    (tmp_path / ".codex" / "config.toml").write_text(block_of("Codex", "toml", roomy_server), encoding="utf-8")
    assert run(tmp_path, "codex", "exec", "--skip-git-repo-check", QUESTION) == QUESTION


@needs("claude")
def test_claude_code(roomy_server: RunningServer, tmp_path: Path) -> None:
    settings = block_of("Claude Code and Anthropic's libraries", "sh", roomy_server)
    assert run(tmp_path, "claude", "-p", QUESTION, environment=variables(settings))


@needs("cn")
def test_continue(echo_server: RunningServer, tmp_path: Path) -> None:
    settings = tmp_path / "config.yaml"
    settings.write_text(block_of("Continue", "yaml", echo_server), encoding="utf-8")
    assert run(tmp_path, "cn", "--config", str(settings), "-p", QUESTION) == QUESTION


def test_langchain(echo_server: RunningServer) -> None:
    pytest.importorskip("langchain_openai")
    pytest.importorskip("langchain_anthropic")
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(block_of("LangChain", "python", echo_server), {})
    assert output.getvalue().splitlines() == [QUESTION] * 6


def test_azure_openai(echo_server: RunningServer) -> None:
    names: dict[str, Any] = {}
    exec(block_of("Azure OpenAI", "python", echo_server), names)
    names["client"].close()
    assert names["chat"].choices[0].message.content == QUESTION


@contextlib.contextmanager
def running_open_webui(folder: Path, settings: Mapping[str, str]) -> Iterator[httpx.Client]:
    """Run Open WebUI without what it downloads, and yield a client of its API."""
    port = free_port()
    own = {"HOME": str(folder), "DATA_DIR": str(folder / "data"), "WEBUI_SECRET_KEY": "secret"}
    offline = {"OFFLINE_MODE": "true", "HF_HUB_OFFLINE": "1", "RAG_EMBEDDING_ENGINE": "openai"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            ["open-webui", "serve", "--host", "127.0.0.1", "--port", str(port)],
            env={**os.environ, **own, **offline, **settings},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        # Its start takes some 15 seconds. Pauses between retries double.
        transport = httpx.HTTPTransport(retries=9)
        with httpx.Client(
            transport=transport, base_url=f"http://127.0.0.1:{port}", timeout=TEST_TIMEOUT_SECONDS
        ) as client:
            yield client
    finally:
        process.terminate()
        process.wait(TEST_TIMEOUT_SECONDS)


@needs("open-webui")
def test_open_webui(echo_server: RunningServer, tmp_path: Path) -> None:
    with running_open_webui(tmp_path, variables(block_of("Open WebUI", "sh", echo_server))) as client:
        account = {"name": "Ada", "email": "ada@example.com", "password": "correct horse battery staple"}
        token = client.post("/api/v1/auths/signup", json=account).json()["token"]
        client.headers["authorization"] = f"Bearer {token}"
        assert "echo" in [model["id"] for model in client.get("/api/models").json()["data"]]
        body = {"model": "echo", "messages": [{"role": "user", "content": QUESTION}]}
        answer = client.post("/api/chat/completions", json=body).json()
        assert answer["choices"][0]["message"]["content"] == QUESTION
        stream = client.post("/api/chat/completions", json={**body, "stream": True}).text
    chunks = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    deltas = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert len(deltas) > 1
    assert "".join(deltas) == QUESTION
