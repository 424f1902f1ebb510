"""A real server with accounts: two workers and the command line on one database."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIStatusError, OpenAI
from typer.testing import CliRunner

from dragoman.accounts.administration.keys import get_key
from dragoman.cli.main import app
from dragoman.core.context import key_digest
from tests.support.accounting import ADMIN_KEY
from tests.support.metered import AccountFixture, cost, sqlite_account
from tests.support.server import WORKER_PROCESS, RunningServer, running_server
from tests.support.timeouts import TEST_TIMEOUT_SECONDS, wait_until


@pytest.fixture(scope="module")
def account_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AccountFixture]:
    with sqlite_account(tmp_path_factory.mktemp("accounts")) as account_fixture:
        yield account_fixture


@pytest.fixture(scope="module")
def url(account_fixture: AccountFixture) -> str:
    return account_fixture.url


@pytest.fixture(scope="module")
def server(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    settings = tmp_path_factory.mktemp("settings") / "dragoman.toml"
    settings.write_text(
        f'workers = 2\n[accounts]\ndatabase = "{url}"\n'
        f'[[admin.keys]]\nname = "ada"\nsha256 = "{key_digest(ADMIN_KEY)}"\n'
    )
    environment = {"DRAGOMAN_ECHO_TOKENS_PER_SECOND": "50"}
    with running_server("echo", "--config", str(settings), environment=environment) as server:
        yield server


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def client_of(server: RunningServer) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=TEST_TIMEOUT_SECONDS)


def test_concurrent_equal_requests_run_once_across_workers_and_are_charged_once(
    server: RunningServer, account_fixture: AccountFixture
) -> None:
    body = {"model": "echo", "messages": [{"role": "user", "content": "x" * 30}]}
    headers = {**bearer(account_fixture.new_key()), "idempotency-key": "at once"}

    def send(_number: int) -> httpx.Response:
        return httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=TEST_TIMEOUT_SECONDS)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(16)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    key_id = account_fixture.keys[-1].id

    def own_rows() -> list[dict[str, Any]]:
        rows = httpx.get(f"{server.url}/api/v1/usage/stats", headers=headers, timeout=TEST_TIMEOUT_SECONDS).json()
        return [row for row in rows if row["user_id"] == str(key_id)]

    wait_until(lambda: bool(own_rows()), "a response is settled, which may be after it was sent")
    usage = answers[0].json()["usage"]
    assert [(row["total_requests"], row["total_tokens"]) for row in own_rows()] == [(1, usage["total_tokens"])]
    assert get_key(account_fixture.database, key_id).spent == cost(usage["prompt_tokens"], usage["completion_tokens"])


def test_the_openai_client_sends_the_idempotency_key_and_does_not_retry_a_conflict(
    server: RunningServer, account_fixture: AccountFixture
) -> None:
    client = OpenAI(api_key=account_fixture.new_key(), base_url=f"{server.url}/v1", max_retries=5)
    headers = {"Idempotency-Key": "by the library"}
    client.completions.create(model="echo", prompt="Hi", extra_headers=headers)
    with pytest.raises(APIStatusError) as conflict:
        client.completions.create(model="echo", prompt="Hello", extra_headers=headers)
    assert conflict.value.status_code == 409
    assert conflict.value.request.headers["x-stainless-retry-count"] == "0"


def test_the_command_line_and_the_admin_api_see_the_same(server: RunningServer, url: str) -> None:
    created = CliRunner().invoke(app, ["accounts", "create", "globex", "--database", url])
    assert created.exit_code == 0, created.output
    headers = bearer(ADMIN_KEY)
    with client_of(server) as client:
        deposited = client.post("/admin/accounts/globex/deposits", json={"amount": "12.50"}, headers=headers)
        assert deposited.status_code == 200
        changes = client.get("/admin/audit", headers=headers).json()["data"]
    assert "12.50" in CliRunner().invoke(app, ["accounts", "show", "globex", "--database", url]).stdout
    actors = {change["actor"] for change in changes}
    assert "ada" in actors
    assert len(actors) == 2


def test_account_keys_and_admin_keys_are_not_interchangeable(
    server: RunningServer, account_fixture: AccountFixture
) -> None:
    key = account_fixture.new_key()
    with client_of(server) as client:
        assert client.get("/admin/accounts", headers=bearer(key)).status_code == 401
        for path in ("/v1/models", "/api/v1/usage/credits", "/metrics"):
            assert client.get(path, headers=bearer(ADMIN_KEY)).status_code == 401
            assert client.get(path, headers=bearer(key)).status_code == 200


def test_no_secret_appears_in_process_arguments(server: RunningServer, url: str) -> None:
    workers = server.children(WORKER_PROCESS)
    assert len(workers) == 2
    for worker in workers:
        arguments = Path(f"/proc/{worker}/cmdline").read_text()
        assert ADMIN_KEY not in arguments
        assert key_digest(ADMIN_KEY) not in arguments
        assert "admin_labels" not in arguments
        assert url not in arguments


def test_admin_keys_without_a_database_stop_the_start(tmp_path: Path) -> None:
    settings = tmp_path / "dragoman.toml"
    settings.write_text(f'[[admin.keys]]\nname = "ada"\nkey = "{ADMIN_KEY}"\n')
    command = [sys.executable, "-m", "dragoman", "serve", "echo", "--config", str(settings)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=TEST_TIMEOUT_SECONDS, check=False)
    assert result.returncode == 2
    assert "set [accounts]" in result.stderr
