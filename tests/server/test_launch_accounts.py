"""The server's processes with accounts: they share limits, keys and balances."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from dragoman.accounts.administration.keys import KeyRules, disable_key
from dragoman.accounts.administration.usage import list_daily_usage
from dragoman.accounts.database.connections import Database
from dragoman.accounts.process.opening import open_ledger
from tests.support.dialects.streaming_clients import StreamingClients, assert_all_tokens_charged
from tests.support.metered import AccountFixture, sqlite_account
from tests.support.server import (
    LEDGER_PROCESS,
    WORKER_PROCESS,
    RunningServer,
    arguments_of,
    children_of,
    running_server,
)
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

WORKERS = 4


@pytest.fixture(scope="module")
def account_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AccountFixture]:
    with sqlite_account(tmp_path_factory.mktemp("accounts")) as account_fixture:
        yield account_fixture


def environment_of(account_fixture: AccountFixture, **more: str) -> dict[str, str]:
    return {"DRAGOMAN_ACCOUNTS_DATABASE": account_fixture.url, **more}


@pytest.fixture(scope="module")
def server(account_fixture: AccountFixture) -> Iterator[RunningServer]:
    with running_server("echo", "--workers", str(WORKERS), environment=environment_of(account_fixture)) as server:
        yield server


def content_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def statuses(url: str, key: str, requests: int) -> Counter[int]:
    """Send all requests at the same time, each on its own connection. Return the counts of their statuses."""
    body = {"model": "echo", "prompt": "ab", "max_tokens": 4}

    async def send() -> int:
        headers = {"authorization": f"Bearer {key}", "connection": "close"}
        async with session.post("/v1/completions", json=body, headers=headers) as response:
            await response.read()
            return response.status

    connector = aiohttp.TCPConnector(limit=64, force_close=True)
    timeout = aiohttp.ClientTimeout(total=TEST_TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        return Counter(await asyncio.gather(*(send() for _ in range(requests))))


async def test_100_requests_a_minute_are_100_across_all_workers(
    server: RunningServer, account_fixture: AccountFixture
) -> None:
    key = account_fixture.new_key(KeyRules(requests_per_minute=100))
    assert await statuses(server.url, key, 240) == {200: 100, 429: 140}


async def test_a_revoked_key_is_immediately_rejected_by_every_worker(
    server: RunningServer, account_fixture: AccountFixture
) -> None:
    key = account_fixture.new_key()
    assert await statuses(server.url, key, 100) == {200: 100}
    disable_key(account_fixture.database, account_fixture.keys[-1].id)
    assert await statuses(server.url, key, 100) == {401: 100}


async def test_a_killed_worker_is_replaced_and_its_requests_are_paid(tmp_path: Path) -> None:
    with sqlite_account(tmp_path) as account_fixture:
        environment = environment_of(account_fixture, DRAGOMAN_ECHO_TOKENS_PER_SECOND="300")
        with running_server("echo", "--workers", "2", environment=environment) as server:
            async with StreamingClients(server.url, account_fixture.new_key(), clients=8, seed=2) as clients:
                for _ in range(3):
                    await clients.wait_for_tokens(100)
                    os.kill(server.children(WORKER_PROCESS)[0], signal.SIGKILL)
                await clients.wait_for_tokens(500)
            assert await asyncio.to_thread(server.stop) == 0
        # The last worker may have been stopped before it settled. Then the next start settles.
        async with open_ledger(account_fixture.database, tmp_path / "accounts.db.journals"):
            assert_all_tokens_charged(account_fixture, clients)
        assert list(tmp_path.joinpath("accounts.db.journals").glob("*.journal-1")) == []


async def test_a_killed_ledger_process_is_replaced_and_its_requests_are_paid(tmp_path: Path) -> None:
    with sqlite_account(tmp_path) as account_fixture:
        environment = environment_of(account_fixture, DRAGOMAN_ECHO_TOKENS_PER_SECOND="300")
        with running_server("echo", environment=environment) as server:
            (worker,) = server.children(WORKER_PROCESS)
            (forked,) = children_of(worker, LEDGER_PROCESS)
            assert arguments_of(forked).rstrip("\0") == LEDGER_PROCESS, "those of one that was started anew have more"
            async with StreamingClients(server.url, account_fixture.new_key(), clients=8, seed=4) as clients:
                for _ in range(3):
                    await clients.wait_for_tokens(100)
                    while not (processes := children_of(worker, LEDGER_PROCESS)):
                        await clients.wait_for_tokens(1)  # They continue when the process is back.
                    os.kill(processes[0], signal.SIGKILL)
                await clients.wait_for_tokens(500)
            assert await asyncio.to_thread(server.stop) == 0
        assert_all_tokens_charged(account_fixture, clients)


async def test_answers_that_are_cut_when_the_server_ends_are_paid(tmp_path: Path) -> None:
    with sqlite_account(tmp_path) as account_fixture:
        slow = {"DRAGOMAN_ECHO_TOKENS_PER_SECOND": "5", "DRAGOMAN_DRAIN_SECONDS": "1"}
        with running_server("echo", environment=environment_of(account_fixture, **slow)) as server:
            async with StreamingClients(server.url, account_fixture.new_key(), clients=4, seed=3) as clients:
                await clients.wait_for_tokens(4)
                assert await asyncio.to_thread(server.stop) == 0
        assert_all_tokens_charged(account_fixture, clients)


async def test_no_key_and_no_database_is_in_a_log_or_in_an_argument(tmp_path: Path) -> None:
    with sqlite_account(tmp_path) as account_fixture, tmp_path.joinpath("errors").open("w+") as errors:
        secrets = [account_fixture.new_key(), "sk-nobodys-0123456789abcdef", "malformed-0123456789abcdef"]
        environment = environment_of(account_fixture, DRAGOMAN_LOG_LEVEL="debug")
        with running_server("echo", environment=environment, errors=errors) as server:
            for key in secrets:
                await statuses(server.url, key, 2)
            arguments = server.arguments(WORKER_PROCESS)
        errors.seek(0)
        output = errors.read() + arguments
        for secret in (*secrets, 'accounts.db"'):
            assert secret not in output
        stored = content_of(tmp_path)
        for secret in secrets:
            assert secret.encode() not in stored


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ('[accounts]\n[[keys]]\nname = "a"\nkey = "sk-0123456789abcdef"', "[[keys]] and [accounts] are both set"),
        ('[accounts]\ndatabase = "mysql://somewhere"', "accounts.database: Not a database dragoman can use: mysql"),
        ('[accounts]\ndatabase = "nonsense"', "accounts.database: Not a database URL"),
        ('[accounts]\ndatabase = "sqlite:////proc/none/accounts.db"', "cannot be kept in /proc/none"),
        ('[accounts]\ndatabase = "postgresql://user:hunter2@127.0.0.1:1/none"', "database cannot be used"),
    ],
)
def test_unusable_accounts_are_reported_in_one_line(tmp_path: Path, settings: str, expected: str) -> None:
    file = tmp_path / "dragoman.toml"
    file.write_text(settings)
    command = [sys.executable, "-m", "dragoman", "serve", "echo", "--port", "0", "--config", str(file)]
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path)}
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=TEST_TIMEOUT_SECONDS, check=False, env=environment
    )
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert expected in line
    assert "hunter2" not in line


@pytest.mark.parametrize("keys", ["", '[[keys]]\nname = "a"\nkey = "sk-0123456789abcdef"'])
async def test_without_accounts_usage_is_recorded_and_costs_nothing(tmp_path: Path, keys: str) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text(keys)
    with running_server("echo", "--config", str(settings), environment={"XDG_DATA_HOME": str(tmp_path)}) as server:
        assert await statuses(server.url, "sk-0123456789abcdef", 3) == {200: 3}
        libraries = await asyncio.to_thread(Path(f"/proc/{server.process.pid}/maps").read_text)
        assert "sqlalchemy" not in libraries, "the workers use the database, and the supervisor need not load it"
        assert await asyncio.to_thread(server.stop) == 0
    database = Database(f"sqlite:///{tmp_path}/dragoman/accounts.db")
    [day] = list_daily_usage(database)
    assert (day.account_id, day.key_id, day.requests, day.completion_tokens, day.charge) == (0, 0, 3, 9, 0)
    database.close()


async def test_the_server_serves_although_usage_cannot_be_recorded(tmp_path: Path) -> None:
    with tmp_path.joinpath("errors").open("w+") as errors:
        with running_server("echo", environment={"XDG_DATA_HOME": "/proc/none"}, errors=errors) as server:
            assert await statuses(server.url, "any", 3) == {200: 3}
        errors.seek(0)
        assert "usage_recording_disabled" in errors.read()
