"""LiteLLM's proxy without a database: the baseline of benchmarks.gateway and benchmarks.upstream."""

import contextlib
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from benchmarks.harness.processes import START_TIMEOUT_SECONDS, Server, stop_process

KEY = "sk-litellm-0123456789abcdef"

_SETTINGS = {"general_settings": {"master_key": KEY}, "litellm_settings": {"telemetry": False}}
_MOCK = {"model": "openai/echo", "api_key": "none", "mock_response": "ping"}


@contextlib.contextmanager
def litellm_proxy(program: Path, folder: Path, upstreams: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run the `litellm` program with one worker. Raises RuntimeError if it does not start.

    `upstreams` are the URLs of OpenAI-compatible servers by model. None: the model `echo` has a canned answer.
    """
    models = {"echo": _MOCK}
    if upstreams is not None:
        models = {
            name: {"model": f"openai/{name}", "api_key": "none", "api_base": f"{url}/v1"}
            for name, url in upstreams.items()
        }
    model_list = [{"model_name": name, "litellm_params": parameters} for name, parameters in models.items()]
    configuration = folder / "litellm.yaml"
    configuration.write_bytes(msgspec.json.encode({"model_list": model_list, **_SETTINGS}))  # JSON is YAML, too.
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
