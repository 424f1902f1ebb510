"""The whole way of an account: opened by an administrator, used in every worker, looked at by its owner."""

import asyncio
import hashlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.books import ADMIN_KEY
from tests.support.server import RunningServer, running_server

CHAT = {"model": "echo", "max_tokens": 4, "messages": [{"role": "user", "content": "abcdef"}]}
LOOKS = 200


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Two workers over a database that is new."""
    folder = tmp_path_factory.mktemp("server")
    settings = folder / "dragoman.toml"
    digest = hashlib.sha256(ADMIN_KEY.encode()).hexdigest()
    settings.write_text(f'[accounts]\n[[admin.keys]]\nname = "ada"\nsha256 = "{digest}"\n')
    environment = {"XDG_DATA_HOME": str(folder)}
    with running_server("echo", "--workers", "2", "--config", str(settings), environment=environment) as server:
        yield server


async def post(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def customer_of(admin: httpx.AsyncClient, name: str) -> tuple[int, str]:
    """An account with a unit of money and a key."""
    account = (await post(admin, "/admin/accounts", {"name": name}))["id"]
    await post(admin, f"/admin/accounts/{account}/deposits", {"amount": "1"})
    return account, (await post(admin, "/admin/keys", {"account": account}))["secret"]


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}", "connection": "close"}


async def test_a_request_that_comes_often_to_both_workers_is_paid_for_once(server: RunningServer) -> None:
    async with (
        httpx.AsyncClient(base_url=server.url, headers=bearer(ADMIN_KEY), timeout=60) as admin,
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
    ):
        await post(admin, "/admin/prices", {"model": "echo", "prompt": "0", "completion": "1000"})
        account, key = await customer_of(admin, "often")
        headers = {**bearer(key), "idempotency-key": "order 1"}
        asked = (client.post("/api/v1/chat/completions", json=CHAT, headers=headers) for _ in range(20))
        answers = await asyncio.gather(*asked)
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        assert sum("idempotent-replayed" in answer.headers for answer in answers) == 19
        usage: list[Any] = []
        for _ in range(LOOKS):
            usage = (await admin.get("/admin/usage", params={"account": account})).json()["data"]
            if usage:
                break
        [used] = usage
        assert (used["request_id"], used["completion_tokens"]) == (answers[0].headers["x-request-id"], 4)
        credits = await client.get("/api/v1/usage/credits", headers=bearer(key))
        assert credits.json() == {"credit_balance": 0.996}
        summary = await client.get("/api/v1/usage/summary", headers=bearer(key))
        assert summary.json()["total_requests"] == 1


async def test_keys_of_accounts_and_of_administrators_open_nothing_of_each_other(server: RunningServer) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        async with httpx.AsyncClient(base_url=server.url, headers=bearer(ADMIN_KEY), timeout=60) as admin:
            _, key = await customer_of(admin, "apart")
        assert (await client.get("/admin/accounts", headers=bearer(key))).status_code == 401
        for path in ("/v1/models", "/api/v1/usage/credits", "/metrics"):
            assert (await client.get(path, headers=bearer(ADMIN_KEY))).status_code == 401
            assert (await client.get(path, headers=bearer(key))).status_code == 200
