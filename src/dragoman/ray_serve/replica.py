"""A replica of Ray Serve: it runs a dragoman server beside itself, on whichever machine Ray has placed it.

No token passes through Ray. It starts the server, asks for its health, and ends it.
"""

import asyncio
import http.client
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

_LISTENING = re.compile(r"at http://(\S+):(\d+)")
_HEALTH_SECONDS = 10.0
_STOP_SECONDS = 60.0
"""Beyond the server's own drain_seconds (30)."""


class EngineReplica:
    """The object that Ray Serve keeps in each replica."""

    def __init__(self, settings: str, environment: Mapping[str, str]) -> None:
        """Start the server and return once it listens; it is healthy when its models are loaded.

        `settings` is the text of its settings file. Raises RuntimeError with its last lines if it does not start.
        """
        import ray

        self._address: str = ray.util.get_node_ip_address()
        self._folder = tempfile.TemporaryDirectory(prefix="dragoman-ray-")
        file = Path(self._folder.name, "dragoman.toml")
        file.write_text(settings, encoding="utf-8")
        # Ray sets it to 1 for actors with less than one processor; the settings have the engine's threads.
        inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "dragoman.cli.ray_replica", "serve"),
                *("--config", str(file), "--host", self._address, "--port", "0"),
            ],
            env={**inherited, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._port = self._wait_until_listening()
        threading.Thread(target=self._pass_output_on, name="server-output", daemon=True).start()

    async def url(self) -> str | None:
        """Return the server's URL; None: its models are not loaded."""
        is_ready = await asyncio.to_thread(self._answers, "/ready")
        return f"http://{self._address}:{self._port}" if is_ready else None

    async def check_health(self) -> None:
        """Raise RuntimeError if the server has ended or does not answer. Ray Serve then replaces the replica."""
        if (status := self._process.poll()) is not None:
            raise RuntimeError(f"the server has ended with status {status}")
        if not await asyncio.to_thread(self._answers, "/health"):
            raise RuntimeError("the server does not answer")

    async def __del__(self) -> None:
        """Let running requests finish, as Ray Serve asks before it stops the replica."""
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, _STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._folder.cleanup()

    def _wait_until_listening(self) -> int:
        assert self._process.stdout is not None
        lines: list[str] = []
        for line in self._process.stdout:
            lines.append(line)
            if found := _LISTENING.search(line):
                return int(found[2])
        raise RuntimeError(f"the server has not started: {''.join(lines[-3:]).strip()}")

    def _pass_output_on(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            sys.stderr.write(line)

    def _answers(self, path: str) -> bool:
        connection = http.client.HTTPConnection(self._address, self._port, timeout=_HEALTH_SECONDS)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
