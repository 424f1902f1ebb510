"""nginx: the upstream that answers at once, and the reverse proxy, in benchmarks.upstream. One process each."""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from benchmarks.harness.processes import START_TIMEOUT_SECONDS, Server, stop_process
from benchmarks.token_source import PROMPT_TOKENS, answer_events, models_document

ANSWER_TOKENS = ["one", " two", " three", " four"]
ANSWER_TEXT = "".join(ANSWER_TOKENS)

_CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  default_type application/json;
  keepalive_requests 1000000000;
  keepalive_timeout 600;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  scgi_temp_path {folder}/scgi;
  uwsgi_temp_path {folder}/uwsgi;
  {servers}
}}
"""

# dragoman asks for a stream of events, whatever its client wants; the other proxies pass on what their client asks for.
_ANSWERING = """
  map $http_accept $form {{ default json; ~event-stream stream; }}
  server {{
    listen 127.0.0.1:{port};
    location = /v1/chat/completions {{ rewrite ^ /answer/$form last; }}
    location = /answer/json {{ internal; return 200 '{document}'; }}
    location = /answer/stream {{ internal; default_type text/event-stream; return 200 '{events}'; }}
    location = /v1/models {{ return 200 '{models}'; }}
  }}
"""

_PROXYING = """
  upstream upstream{port} {{ server {address}; keepalive 128; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://upstream{port};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
"""


def find_nginx() -> Path:
    """Return the program. Raises RuntimeError if it is not installed."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        raise RuntimeError("nginx is not installed: install the package nginx of your distribution")
    return Path(program)


@contextlib.contextmanager
def answering_nginx(folder: Path) -> Iterator[Server]:
    """Run a server that answers every chat completion with the same short answer, streamed if it is asked to."""
    [port] = _free_ports(1)
    server = _ANSWERING.format(
        port=port,
        document=_quoted(_document()),
        events=_quoted(b"".join(answer_events(ANSWER_TOKENS))),
        models=_quoted(models_document()),
    )
    with _running(folder, server, port) as process_id:
        yield Server(f"http://127.0.0.1:{port}", process_id)


@contextlib.contextmanager
def proxying_nginx(folder: Path, upstreams: Mapping[str, str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Run a reverse proxy of upstreams: its process id, and the URL of its port for each of them."""
    ports = dict(zip(upstreams, _free_ports(len(upstreams)), strict=True))
    servers = [
        _PROXYING.format(port=ports[name], address=url.removeprefix("http://")) for name, url in upstreams.items()
    ]
    with _running(folder, "".join(servers), *ports.values()) as process_id:
        yield process_id, {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}


def _document() -> bytes:
    tokens = len(ANSWER_TOKENS)
    return msgspec.json.encode(
        {
            "id": "chatcmpl-0123456789abcdef",
            "object": "chat.completion",
            "created": 1_750_000_000,
            "model": "benchmark",
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": ANSWER_TEXT}, "finish_reason": "stop"}
            ],
            "usage": {
                "prompt_tokens": PROMPT_TOKENS,
                "completion_tokens": tokens,
                "total_tokens": PROMPT_TOKENS + tokens,
            },
        }
    )


def _quoted(text: bytes) -> str:
    """Return a text for a single-quoted string of the configuration."""
    return text.decode().replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def _running(folder: Path, servers: str, *ports: int) -> Iterator[int]:
    folder.mkdir()
    configuration = folder / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(folder=folder, servers=servers))
    process = subprocess.Popen(
        [find_nginx(), "-e", "stderr", "-p", folder, "-c", configuration], stdin=subprocess.DEVNULL
    )
    try:
        for port in ports:
            _wait_listening(process, port)
        yield process.pid
    finally:
        stop_process(process)


def _wait_listening(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"nginx did not start within {START_TIMEOUT_SECONDS} seconds")
