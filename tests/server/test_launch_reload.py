"""A running server whose settings are read again. The processes are real: the settings pass through all of them."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dragoman.server.control import request_reload, server_process
from dragoman.server.reloading import ReloadRefused
from dragoman.server.runtime_folder import folders_in_use
from tests.support.certificates import make_certificate
from tests.support.dialects.streams import chat_body
from tests.support.server import STOP_TIMEOUT_SECONDS, RunningServer, running_server
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

KEY, OTHER_KEY, ADMIN_KEY = (f"correct-horse-battery-staple-{n}" for n in range(3))
CLIENTS, RELOADS = 4, 12
"""Seen to hold with 32 and 100."""
TIMEOUT = httpx.Timeout(TEST_TIMEOUT_SECONDS)


@pytest.fixture(autouse=True)
def hangups() -> Iterator[None]:
    """Let servers get SIGHUP: below `nohup`, they would inherit that it is ignored."""
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, inherited)


def write_settings(path: Path, *lines: str, keys: tuple[str, ...] = (KEY,)) -> None:
    tables = (f'[[keys]]\nname = "k"\nkey = "{key}"\n' for key in keys)
    path.write_text("\n".join([*lines, *tables]))


def folder_of(server: RunningServer) -> Path:
    return next(folder for folder in folders_in_use() if server_process(folder) == server.process.pid)


@contextlib.contextmanager
def reloadable_server(path: Path, *arguments: str) -> Iterator[RunningServer]:
    with running_server("echo", "--config", str(path), *arguments, records_usage=False) as server:
        yield server


async def test_reloads_under_load_fail_no_request_and_mix_no_settings(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    write_settings(path, 'allowed_origins = ["https://odd.example"]')
    with reloadable_server(path, "--workers", "2") as server:
        folder, answered, stopping = folder_of(server), asyncio.Event(), asyncio.Event()
        clients = [asyncio.create_task(_use(server.url, answered, stopping)) for _ in range(CLIENTS)]
        generation = 1
        for number in range(RELOADS):
            await asyncio.wait_for(answered.wait(), TEST_TIMEOUT_SECONDS)
            answered.clear()
            if number % 3 == 2:
                path.write_text("port = 'none'\n")
            else:
                generation += 1
                origin = "odd" if generation % 2 else "even"
                write_settings(path, f'allowed_origins = ["https://{origin}.example"]')
            if number % 3 == 2:
                with pytest.raises(ReloadRefused, match="port must be an integer from 0 to 65535"):
                    await asyncio.to_thread(request_reload, folder)
            else:
                made = await asyncio.to_thread(request_reload, folder)
                assert (made.generation, made.changed) == (generation, ("allowed_origins",))
        stopping.set()
        seen = {generation for each in await asyncio.gather(*clients) for generation in each}
    assert generation in seen
    assert len(seen) > 2, "the clients saw several settings"


async def _use(url: str, answered: asyncio.Event, stopping: asyncio.Event) -> set[int]:
    """Send requests until the end, and note each answer. Return the generations of settings that were seen whole."""
    seen: set[int] = set()
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, headers={"Authorization": f"Bearer {KEY}"}) as client:
        is_last = False
        while not is_last:
            is_last = stopping.is_set()
            ready = await client.get("/ready", headers={"Origin": "https://odd.example"})
            generation = ready.json()["generation"]
            assert ("access-control-allow-origin" in ready.headers) == (generation % 2 == 1)
            seen.add(generation)
            body = chat_body("one two three", model="echo", stream=True)
            answer = await client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200
            assert answer.text.endswith("data: [DONE]\n\n")
            answered.set()
    return seen


def test_all_workers_and_those_that_start_later_have_what_a_reload_changes_and_keep_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    first, second = make_certificate(tmp_path, "first"), make_certificate(tmp_path, "second")
    write_settings(path)
    tls = ("--ssl-certfile", first.certfile, "--ssl-keyfile", first.keyfile)
    with reloadable_server(path, "--workers", "2", *tls) as server:
        write_settings(path, "workers = 7", "max_body_bytes = 100", "[echo]", "context_length = 4", keys=(OTHER_KEY,))
        Path(second.certfile).replace(first.certfile)
        Path(second.keyfile).replace(first.keyfile)
        command = [sys.executable, "-m", "dragoman", "reload", "--json", str(server.process.pid)]
        made = json.loads(subprocess.check_output(command))
        assert made["generation"] == 2
        assert set(made["changed"]) == {"keys", "max_body_bytes"}
        assert made["restart_needed"] == ["echo.context_length"], "an option set the number of workers"
        command.remove("--json")
        again = subprocess.check_output(command, text=True)
        assert again == f"process {server.process.pid}: generation 3, changed: nothing\n" + (
            f"process {server.process.pid}: restart needed: echo.context_length\n"
        )
        for _ in range(8):  # Each connection reaches some worker.
            with httpx.Client(base_url=server.url, timeout=TIMEOUT, verify=_trusting(first.certfile)) as client:
                for key, status in ((KEY, 401), (OTHER_KEY, 413)):
                    response = client.post(
                        "/v1/chat/completions",
                        json=chat_body("a " * 100, model="echo"),
                        headers={"Authorization": f"Bearer {key}"},
                    )
                    assert response.status_code == status
        for worker in server.children("dragoman.server.worker"):
            os.kill(worker, signal.SIGKILL)
        with httpx.Client(base_url=server.url, timeout=TIMEOUT, verify=_trusting(first.certfile)) as client:
            assert client.get("/ready").json()["generation"] == 3


def _trusting(certfile: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certfile)


def test_a_sighup_reads_the_settings_again(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    write_settings(path)
    with reloadable_server(path) as server, httpx.Client(base_url=server.url, timeout=TIMEOUT) as client:
        write_settings(path, keys=(OTHER_KEY,))
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + TEST_TIMEOUT_SECONDS
        while client.get("/ready").json()["generation"] == 1:
            assert time.monotonic() < deadline
        assert client.get("/v1/models", headers={"Authorization": f"Bearer {OTHER_KEY}"}).status_code == 200


def test_the_end_of_its_terminal_stops_the_server_in_order(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "dragoman", "serve", "echo", "--port", "0"]
    in_terminal = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", in_terminal, *command],
        stdin=theirs,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "XDG_DATA_HOME": str(tmp_path)},
    )
    os.close(theirs)
    assert process.stdout is not None
    assert any("Try:" in line for line in process.stdout)
    os.close(ours)
    assert process.wait(STOP_TIMEOUT_SECONDS) == 0
    process.stdout.close()


def test_an_administrator_reloads_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    lines = ("[accounts]", f'database = "sqlite:///{tmp_path}/accounts.db"', "[[admin.keys]]", 'name = "ada"')
    write_settings(path, *lines, f'key = "{ADMIN_KEY}"', keys=())
    with reloadable_server(path) as server, httpx.Client(base_url=server.url, timeout=TIMEOUT) as client:
        client.headers["Authorization"] = f"Bearer {ADMIN_KEY}"
        write_settings(path, "public_docs = false", "workers = 3", *lines, f'key = "{ADMIN_KEY}"', keys=())
        made = client.post("/admin/reload").json()
        assert made == {"generation": 2, "changed": ["public_docs"], "restart_needed": ["workers"]}
        path.write_text("prot = 1")
        refused = client.post("/admin/reload")
        assert refused.status_code == 409
        assert "unknown key prot" in refused.text
        assert client.get("/ready").json()["generation"] == 2
