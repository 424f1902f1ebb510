"""nginx and Caddy with the files of deploy, on ports of this machine's loopback."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.certificates import make_certificate
from tests.support.ports import free_port
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

DEPLOY = Path(__file__).parents[2] / "deploy"
NAMES = ("nginx", "caddy")
_DEPLOYED = "10.0.0.11:8000"
_FURTHER = ("10.0.0.12:8000", "10.0.0.13:8000")
_NAME = "llm.example.com"

NGINX_MAIN = """
daemon off;
worker_processes 1;
error_log {folder}/error.log;
pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/dragoman.conf;
}}
"""
"""What a distribution's nginx.conf has around the files of conf.d, in a folder of the caller's own."""


class Proxy(NamedTuple):
    """A running proxy."""

    url: str
    certificate: str


def missing(name: str) -> bool:
    """Whether the program is not installed."""
    return shutil.which(name) is None


@contextlib.contextmanager
def running_proxy(name: str, folder: Path, server: str, *, below: str = "/") -> Iterator[Proxy]:
    """Run the proxy before the server at `server`, HOST:PORT, until the end of the block; nginx serves it `below`."""
    port = free_port()
    certificate = make_certificate(folder, _NAME)
    text = _nginx(folder, port, below) if name == "nginx" else _caddy(folder, port)
    for further in _FURTHER:
        text = "".join(
            line for line in text.splitlines(keepends=True) if not line.strip().startswith(f"server {further}")
        )
        text = text.replace(f" {further}", "")
    assert text.count(_DEPLOYED) == 1
    (folder / "dragoman.conf").write_text(text.replace(_DEPLOYED, server), encoding="utf-8")
    if name == "nginx":
        (folder / "nginx.conf").write_text(NGINX_MAIN.format(folder=folder), encoding="utf-8")
        command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    else:
        command = ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "dragoman.conf")]
    environment = {**os.environ, "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        _wait_until_listening(process, port, folder)
        yield Proxy(f"https://127.0.0.1:{port}", certificate.certfile)
    finally:
        process.terminate()
        process.wait(TEST_TIMEOUT_SECONDS)


def _nginx(folder: Path, port: int, below: str) -> str:
    text = (DEPLOY / "nginx" / "dragoman.conf").read_text(encoding="utf-8")
    assert "listen 443 ssl http2;" in text
    text = text.replace("listen 443 ssl http2;", f"listen 127.0.0.1:{port} ssl http2;")
    return text.replace("/etc/nginx/tls/", f"{folder}/").replace("location / {", f"location {below} {{")


def _caddy(folder: Path, port: int) -> str:
    text = (DEPLOY / "caddy" / "Caddyfile").read_text(encoding="utf-8")
    site = f"https://127.0.0.1:{port} {{"
    own = "{\n\tadmin off\n\tauto_https disable_redirects\n}\n"  # It would listen on ports of its own.
    return own + text.replace(f"{_NAME} {{", site).replace("/etc/caddy/tls/", f"{folder}/")


def _wait_until_listening(process: "subprocess.Popen[bytes]", port: int, folder: Path) -> None:
    deadline = time.monotonic() + TEST_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        assert process.poll() is None, (folder / "log").read_text()
        time.sleep(0.02)
    raise AssertionError((folder / "log").read_text())
