"""A small HTTP server in place of the Hugging Face hub, and processes that use it."""

import abc
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from tests.support.timeouts import TEST_TIMEOUT_SECONDS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""The commit of every repository of a hub."""

UNREACHABLE = "http://127.0.0.1:9"
"""The address of a hub that is down."""


class HubHandler(BaseHTTPRequestHandler, abc.ABC):
    """The possible responses of a hub. A subclass chooses one for each request."""

    @abc.abstractmethod
    def respond(self) -> None:
        """Send one of the responses below."""

    def do_GET(self) -> None:
        self.respond()

    do_HEAD = do_GET  # noqa: N815 - BaseHTTPRequestHandler looks its methods up by these names

    def send_listing(self, repository: str, files: Sequence[str]) -> None:
        """Send the list of a repository's files."""
        listing = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
        self._reply(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})

    def send_file(self, repository: str, name: str, content: bytes, *, with_size: bool = True) -> None:
        """Send a file of a repository, and unless told otherwise how large it is."""
        tag = f"{repository}/{name}".replace("/", "-")
        self._reply(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}, with_size=with_size)

    def send_refusal(self, status: int, code: str) -> None:
        """Send an error that the hub's client knows."""
        self._reply(status, b"", {"X-Error-Code": code})

    def _reply(self, status: int, body: bytes, headers: dict[str, str], *, with_size: bool = True) -> None:
        self.send_response(status)
        size = {"Content-Length": str(len(body))} if with_size else {}
        for name, value in {**headers, **size}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@contextlib.contextmanager
def running_hub(handler: type[HubHandler]) -> Iterator[str]:
    """Run a hub until the end of the block, and yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def run_python_with_hub(
    hub: str, cache: Path, program: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python in another process that downloads from the hub: its client reads the environment on import."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "HF_HOME": str(cache), "HF_ENDPOINT": hub, "NO_PROXY": "127.0.0.1", **environment},
        capture_output=True,
        text=True,
        timeout=TEST_TIMEOUT_SECONDS,
        check=True,
    )
