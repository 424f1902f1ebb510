"""A server that systemd starts: a Unix socket opened for it, TLS, and messages about its state.

The processes are real: the socket and the variables pass from one to the next.
"""

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import httpx
import pytest

from dragoman.server.liveness import is_alive
from dragoman.server.settings import Settings
from tests.support.certificates import make_certificate
from tests.support.dialects.streams import chat_body
from tests.support.server import START_TIMEOUT_SECONDS, STOP_TIMEOUT_SECONDS

KEY = "correct-horse-battery-staple"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

_AS_SYSTEMD_STARTS = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "dragoman", *sys.argv[2:]])
"""


def _started(
    listener: socket.socket, arguments: Sequence[str], environment: dict[str, str], output: IO[str]
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _AS_SYSTEMD_STARTS, str(listener.fileno()), "serve", *arguments],
        env={**os.environ, **environment},
        pass_fds=(listener.fileno(),),
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def activated_server(
    listener: socket.socket, *arguments: str, output: str = os.devnull, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    with Path(output).open("w") as written:
        process = _started(listener, arguments, environment, written)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_server_behind_systemd_serves_tls_on_the_given_socket_and_reports_its_state(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, "server")
    tls = ("--ssl-certfile", certificate.certfile, "--ssl-keyfile", certificate.keyfile)
    logs = ("--log-format", "json", "--access-log", "--api-key", "env:SERVER_KEY")
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        listener.bind(str(tmp_path / "api"))
        listener.listen()
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(START_TIMEOUT_SECONDS)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "SERVER_KEY": KEY, "XDG_DATA_HOME": str(tmp_path)}
        with activated_server(listener, "echo", *tls, *logs, **environment) as server:
            assert manager.recv(100) == b"READY=1"
            transport = httpx.HTTPTransport(
                uds=str(tmp_path / "api"), verify=ssl.create_default_context(cafile=certificate.certfile)
            )
            with httpx.Client(
                transport=transport, base_url="https://localhost", timeout=START_TIMEOUT_SECONDS
            ) as client:
                assert client.get("/health").status_code == 200
                assert client.post("/v1/chat/completions", json=chat_body("a", model="echo")).status_code == 401
                authorized = {"Authorization": f"Bearer {KEY}"}
                body = chat_body("hello", model="echo")
                traced = {**authorized, "traceparent": f"00-{TRACE}-{SPAN}-00"}
                response = client.post("/v1/chat/completions?private=1", json=body, headers=traced)
                assert response.status_code == 200
            settings = Settings(
                uds=str(tmp_path / "api"), ssl_certfile=certificate.certfile, ssl_keyfile=certificate.keyfile
            )
            assert is_alive(settings)
            server.terminate()
            assert manager.recv(100) == b"STOPPING=1"
            _, errors = server.communicate(timeout=STOP_TIMEOUT_SECONDS)
            assert server.returncode == 0
            listener.close()
            assert not is_alive(settings)
    requests = [line for line in map(json.loads, errors.splitlines()) if line["event"] == "request_ended"]
    assert [(line["method"], line["path"], line["status"]) for line in requests] == [
        ("POST", "/v1/chat/completions", 401),
        ("POST", "/v1/chat/completions", 200),
    ]
    assert requests[-1]["request_id"] == response.headers["x-request-id"]
    assert [(line.get("trace_id"), line.get("span_id")) for line in requests] == [(None, None), (TRACE, SPAN)]
    assert KEY not in errors


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_server_starts_though_nobody_can_read_what_it_announces(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with activated_server(listener, "echo", output="/dev/full", XDG_DATA_HOME=str(tmp_path)) as server:
            # The socket takes connections from the beginning, and its requests wait.
            assert httpx.get(f"{url}/ready", timeout=START_TIMEOUT_SECONDS).status_code == 200
            late = threading.Timer(START_TIMEOUT_SECONDS, server.kill)
            late.start()
            assert server.stderr is not None
            was_seen = any("announcement_not_written" in line for line in server.stderr)
            late.cancel()
            assert was_seen
            server.terminate()
            _, log = server.communicate(timeout=STOP_TIMEOUT_SECONDS)
            assert server.returncode == 0, log
