"""LiteLLM's proxy without a database, with a mock response: the baseline of benchmarks.gateway."""

import contextlib
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness.processes import START_TIMEOUT_SECONDS, Server, stop_process

KEY = "sk-litellm-0123456789abcdef"

_CONFIGURATION = f"""
model_list:
  - model_name: echo
    litellm_params:
      model: openai/echo
      api_key: none
      mock_response: ping
general_settings:
  master_key: {KEY}
litellm_settings:
  telemetry: false
"""


@contextlib.contextmanager
def litellm_proxy(program: Path, folder: Path) -> Iterator[Server]:
    """Run the `litellm` program with one worker. Raises RuntimeError if it does not start."""
    configuration = folder / "litellm.yaml"
    configuration.write_text(_CONFIGURATION)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with folder.joinpath("litellm.log").open("w") as log:
        process = subprocess.Popen(
            [program, "--config", configuration, "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"],
            stdout=log,
            stderr=log,
            env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
        )
        try:
            _wait_ready(process, url)
            yield Server(url, process.pid)
        finally:
            stop_process(process)


def _wait_ready(process: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health/liveliness", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise RuntimeError(f"LiteLLM's proxy did not start within {START_TIMEOUT_SECONDS} seconds")
