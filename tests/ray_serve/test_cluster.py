"""Engines on a Ray cluster of two nodes. The test is skipped where Ray is not installed, which the core does not need.

Ray is processes, and so is what it places.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from dragoman.accounts.administration.upstreams import list_upstreams
from tests.support.metered import AccountFixture, sqlite_account
from tests.support.server import RunningServer, running_server
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

cluster_utils = pytest.importorskip("ray.cluster_utils")

KEY = "sk-of-the-replicas-0123456789"
_SERVER = """
[[deployments]]
name = "assistant"
model = "echo"
route = "cache"
"""
_REPLICA = """
[[deployments]]
name = "assistant"
model = "echo"
"""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Two nodes of a cluster; yields its address."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:  # A short path: it holds sockets.
        monkeypatch.setenv("RAY_TMPDIR", folder)
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", f"{folder}/token")
        node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        cluster: Any = cluster_utils.Cluster(initialize_head=True, head_node_args=node)
        try:
            cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
            yield cluster.address
        finally:
            cluster.shutdown()


def test_replicas_of_a_cluster_answer_for_a_deployment_and_are_replaced(cluster: str, tmp_path: Path) -> None:
    with sqlite_account(tmp_path) as account_fixture, _serving(account_fixture, tmp_path) as server:
        client = httpx.Client(
            base_url=server.url,
            headers={"authorization": f"Bearer {account_fixture.new_key()}"},
            timeout=TEST_TIMEOUT_SECONDS,
        )
        with client, _placing(cluster, account_fixture, tmp_path) as placing:
            _wait(lambda: len(_urls(account_fixture)) == 2, placing)
            first = _urls(account_fixture)
            _wait(lambda: len({_ask(client, f"{number} " * 200)[1] for number in range(8)}) == 3, placing)

            # Once they have their full share, 30 seconds after they came.
            _wait(lambda: all(len(_ask_with_prefix(client, start)) == 1 for start in "abcd"), placing)

            (lost,) = {_parent_of(url) for url in sorted(first)[:1]}
            os.kill(lost, signal.SIGKILL)
            _wait(lambda: len(_urls(account_fixture) - first) == 1 and len(_urls(account_fixture)) == 2, placing)
            assert _ask(client, "parrot")[0] == "parrot"

            placing.send_signal(signal.SIGTERM)
            assert placing.wait(TEST_TIMEOUT_SECONDS) == 0
            assert _urls(account_fixture) == set()
            assert _ask(client, "parrot")[0] == "parrot"
        account_fixture.assert_settled()


@contextlib.contextmanager
def _serving(account_fixture: AccountFixture, folder: Path) -> Iterator[RunningServer]:
    settings = folder / "server.toml"
    settings.write_text(_SERVER, encoding="utf-8")
    environment = {"DRAGOMAN_ACCOUNTS_DATABASE": account_fixture.url, "UPSTREAM_KEY_RAY": KEY}
    with running_server("--config", str(settings), environment=environment) as server:
        yield server


@contextlib.contextmanager
def _placing(cluster: str, account_fixture: AccountFixture, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    settings = folder / "replica.toml"
    settings.write_text(_REPLICA, encoding="utf-8")
    command = [sys.executable, "-m", "dragoman", "ray", "serve", "assistant", "--address", cluster]
    environment = {**os.environ, "UPSTREAM_KEY_RAY": KEY, "DRAGOMAN_ACCOUNTS_DATABASE": account_fixture.url}
    process = subprocess.Popen([*command, "--replica-config", str(settings)], env=environment)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _urls(account_fixture: AccountFixture) -> set[str]:
    return {each.url for each in list_upstreams(account_fixture.database)}


def _ask(client: httpx.Client, text: str) -> tuple[str, str]:
    """Return the answer and the replica that gave it."""
    body = {"model": "assistant", "max_tokens": 32, "messages": [{"role": "user", "content": text}]}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"], response.headers.get("x-dragoman-upstream", "")


def _ask_with_prefix(client: httpx.Client, start: str) -> set[str]:
    """Return the replicas that answer prompts of one beginning."""
    return {_ask(client, f"{start} " * 1000 + str(end))[1] for end in range(4)}


def _parent_of(url: str) -> int:
    """Return the process of the replica whose server listens at the URL."""
    port = int(url.rpartition(":")[2])
    for process in psutil.process_iter(["cmdline"]):
        if "dragoman.cli.ray_replica" in (process.info["cmdline"] or ()):
            listening = {each.laddr.port for each in process.net_connections() if each.status == psutil.CONN_LISTEN}
            if port in listening:
                return int(process.ppid())
    raise AssertionError(f"nobody listens at {url}")


def _wait(condition: Callable[[], bool], placing: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + TEST_TIMEOUT_SECONDS
    while not condition():
        assert placing.poll() is None, "the command has ended"
        assert time.monotonic() < deadline
        time.sleep(0.2)
