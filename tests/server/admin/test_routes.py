"""The admin API over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import jsonschema
import msgspec
import pytest

from dragoman.accounts.administration.accounts import create_account
from dragoman.accounts.administration.consistency import find_discrepancies
from dragoman.accounts.administration.keys import create_key
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from dragoman.accounts.identifiers import new_process_id
from dragoman.core.errors import KeyDisabled
from dragoman.engines.llama.worker.client import LlamaEngine
from dragoman.gateway.routing.catalog import Deployment
from dragoman.server import admin
from dragoman.server.accounting import AccountingServices
from dragoman.server.admin.route_table import ADMIN_ROUTES
from dragoman.server.admin.serializers import model_state_body
from dragoman.server.dialects import OPERATIONS
from dragoman.server.openapi import document
from tests.support.accounting import ADMIN_KEY, accounting_at
from tests.support.apps import client_of, echo_app
from tests.support.ledger_harness import LedgerHarness
from tests.support.postgresql import new_database

DOCUMENT = document({**OPERATIONS, "admin": admin.OPERATIONS}, "echo")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests of a kind. Each test creates what it needs, under names of its own."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('accounts')}/accounts.db"
    return new_database(request.getfixturevalue("postgresql"))


@pytest.fixture
def url(server_url: str) -> str:
    database = Database(server_url)
    upgrade(database)
    database.close()
    return server_url


@pytest.fixture
def accounting(url: str, tmp_path: Path) -> Iterator[AccountingServices]:
    with accounting_at(url, tmp_path) as accounting:
        yield accounting


class AdminClient:
    """A client of the admin API that validates every response against the OpenAPI document."""

    def __init__(self, client: httpx.AsyncClient, name: str) -> None:
        self._client = client
        self.name = name
        """A name for the objects of one test."""

    async def send(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        response = await self._client.request(method, f"/admin/{path}", **options)
        assert response.status_code == status, response.text
        body = response.json()
        [template] = [
            each
            for each in DOCUMENT["paths"]
            if each.startswith("/admin/")
            and method.lower() in DOCUMENT["paths"][each]
            and _matches(each.removeprefix("/admin/"), path)
        ]
        result = DOCUMENT["paths"][template][method.lower()]["responses"][str(status)]["content"]["application/json"]
        jsonschema.Draft202012Validator({**result["schema"], "components": DOCUMENT["components"]}).validate(body)
        return body

    async def get(self, path: str, status: int = 200, **query: Any) -> Any:
        return await self.send("GET", path, status, params=query)

    async def post(self, path: str, status: int = 200, **body: Any) -> Any:
        return await self.send("POST", path, status, json=body)

    async def account(self) -> int:
        created = await self.post("accounts", name=self.name)
        return int(created["id"])


def _matches(template: str, path: str) -> bool:
    wanted, given = template.split("/"), path.split("/")
    return len(wanted) == len(given) and all(
        one.startswith("{") or one == other for one, other in zip(wanted, given, strict=True)
    )


@pytest.fixture
async def ada(accounting: AccountingServices, request: pytest.FixtureRequest) -> AsyncIterator[AdminClient]:
    app = echo_app(accounting=accounting, admin_keys={ADMIN_KEY: "ada"})
    async with client_of(app) as client:
        client.headers["authorization"] = f"Bearer {ADMIN_KEY}"
        yield AdminClient(client, request.node.name)


async def test_an_account_is_created_paid_into_and_shown(ada: AdminClient) -> None:
    account = await ada.post("accounts", name=ada.name, currency="EUR")
    assert (account["balance"], account["currency"]) == ("0.00", "EUR")
    path = f"accounts/{account['id']}"
    paid = await ada.post(f"{path}/deposits", amount="12.500000001", reference=ada.name, note="first")
    assert (paid["amount"], paid["reference"]) == ("12.500000001", ada.name)
    assert await ada.post(f"{path}/deposits", amount="12.500000001", reference=ada.name) == paid
    await ada.post(f"accounts/{ada.name}/deposits", amount="-2.5")
    assert (await ada.get(path))["balance"] == "10.000000001"
    assert await ada.get(f"accounts/{ada.name}") == await ada.get(path)
    deposits = await ada.get(f"{path}/deposits", limit=1)
    assert [each["amount"] for each in deposits["data"]] == ["-2.50"]
    assert (await ada.get(f"{path}/deposits", before=deposits["next"]))["data"] == [paid]
    listed = await ada.get("accounts", after=account["id"] - 1)
    assert listed["data"][0]["id"] == account["id"]
    assert listed["next"] is None


async def test_a_keys_secret_is_returned_once(ada: AdminClient) -> None:
    account = await ada.account()
    rules: dict[str, Any] = {
        "expires_at": "2030-01-31T12:00:00+02:00",
        "models": ["owl"],
        "dialects": ["arcee", "scale"],
        "budget": "12.50",
        "requests_per_minute": 60,
        "tokens_per_minute": 1000,
        "concurrent_requests": 2,
    }
    made = await ada.post("keys", account=account, label="laptop", **rules)
    secret = made.pop("secret")
    assert secret.startswith("sk-")
    assert made | rules | {"expires_at": "2030-01-31T10:00:00Z"} == made
    assert await ada.get(f"keys/{made['id']}") == made
    assert (await ada.get("keys", account=account))["data"] == [made]
    assert secret not in str(await ada.get("audit"))


async def test_a_change_keeps_fields_that_are_absent(ada: AdminClient) -> None:
    account = await ada.account()
    made = await ada.post("keys", account=account, budget="1", requests_per_minute=60, models=["owl"])
    path = f"keys/{made['id']}"
    changed = await ada.send("PATCH", path, json={"label": "desk", "budget": None, "requests_per_minute": 5})
    assert changed == {key: value for key, value in made.items() if key != "secret"} | {
        "label": "desk",
        "budget": None,
        "requests_per_minute": 5,
    }
    several = [ada.send("PATCH", path, json={name: 7}) for name in ("tokens_per_minute", "concurrent_requests")]
    await asyncio.gather(*several)
    after = await ada.get(path)
    assert (after["tokens_per_minute"], after["concurrent_requests"]) == (7, 7)
    assert (await ada.send("PATCH", path, json={"disabled": True}))["disabled_at"] is not None
    assert (await ada.send("PATCH", path, json={"disabled": False}))["disabled_at"] is None


async def test_a_revoked_key_is_rejected_immediately(ada: AdminClient, url: str) -> None:
    database = Database(url)
    with LedgerHarness(database, name=ada.name) as harness:
        harness.settle(harness.admit().request_id)
        revoked = await ada.send("DELETE", f"keys/{harness.key_id}")
        assert revoked["disabled_at"] is not None
        assert await ada.send("DELETE", f"keys/{harness.key_id}") == revoked
        assert isinstance(harness.try_admit(), KeyDisabled)
    database.close()


async def test_prices_are_for_a_million_tokens(ada: AdminClient) -> None:
    now = await ada.post("prices", model=ada.name, prompt="0.15", completion="0.6", cached="0.015")
    later = await ada.post("prices", model=ada.name, prompt="1", completion="2", valid_from="2999-01-01T00:00:00Z")
    assert (now["prompt"], now["cached"], now["completion"]) == ("0.15", "0.015", "0.60")
    assert (later["cached"], later["valid_from"]) == ("1.00", "2999-01-01T00:00:00Z")
    assert (await ada.get("prices", model=ada.name))["data"] == [now, later]


async def test_usage_is_listed_page_by_page_and_summed_by_day(ada: AdminClient, url: str) -> None:
    database = Database(url)
    with LedgerHarness(database, name=ada.name) as harness:
        admitted = [harness.admit().request_id for _ in range(3)]
        for request_id in admitted:
            harness.settle(request_id)
        first = await ada.get("usage", account=harness.account_id, limit=2)
        rest = await ada.get("usage", account=harness.account_id, limit=2, before=first["next"])
        assert [each["request_id"] for each in first["data"] + rest["data"]] == admitted[::-1]
        assert rest["next"] is None
        today = first["data"][0]["settled_at"][:10]
        days = await ada.get(
            "usage/daily", account=harness.account_id, key=harness.key_id, first_day=today, last_day=today
        )
        [day] = days["data"]
        assert (day["day"], day["requests"], day["charge"]) == (today, 3, "0.0000012")
        assert (await ada.get("usage", account=harness.account_id, model="nobody's"))["data"] == []
        assert find_discrepancies(database) == []
    database.close()


async def test_every_change_is_audited_under_the_name_of_its_admin_key(ada: AdminClient) -> None:
    account = await ada.account()
    await ada.post(f"accounts/{account}/deposits", amount="1")
    changes = (await ada.get("audit", limit=2))["data"]
    assert [(each["actor"], each["action"], each["subject"]) for each in changes] == [
        ("ada", "deposit", f"account {account}"),
        ("ada", "create account", f"account {account}"),
    ]
    older = await ada.get("audit", before=changes[0]["id"], limit=1)
    assert older["data"] == [changes[1]]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "complaint"),
    [
        ("POST", "accounts", {}, 400, "missing required field `name`"),
        ("POST", "accounts", {"name": "x", "colour": "red"}, 400, "unknown field `colour`"),
        ("POST", "accounts", {"name": "12"}, 400, "may not be called '12'"),
        ("POST", "accounts", {"name": "nul\0"}, 400, "$.name"),
        ("POST", "accounts/0/deposits", {"amount": "1"}, 404, "There is no account '0'"),
        ("POST", f"accounts/{'9' * 30}/deposits", {"amount": "1"}, 404, "There is no account"),
        ("POST", "accounts/nobody/deposits", {"amount": 1}, 400, "Expected `str`, got `int`"),
        ("POST", "keys", {"account": 2**62}, 404, "There is no account"),
        ("POST", "keys", {"account": 2**64}, 400, "$.account"),
        ("POST", "keys", {"account": 1, "dialects": ["klingon"]}, 400, "Invalid enum value 'klingon'"),
        ("POST", "keys", {"account": 1, "expires_at": "2030-01-01T00:00:00"}, 400, "timezone"),
        ("POST", "keys", {"account": 1, "expires_at": "2020-01-01T00:00:00Z"}, 400, "expires_at is 2020-01-01T00"),
        ("POST", "keys", {"account": 1, "expires_at": "9999-12-31T23:59:59-05:00"}, 400, "the years 1 to 9999"),
        ("POST", "keys", {"account": 1, "expires_at": "0001-01-01T00:00:00+05:00"}, 400, "the years 1 to 9999"),
        ("POST", "prices", {"model": "m", "prompt": "0.0001", "completion": "1"}, 400, "three digits after the point"),
        ("POST", "prices", {"model": "m", "prompt": "1", "cached": "2", "completion": "1"}, 400, "may not cost more"),
        ("POST", "prices", {"model": "m", "prompt": "1e40", "completion": "1"}, 400, "the ledger can hold"),
        ("GET", "keys/seven", None, 404, "There is no key 'seven'"),
        ("PATCH", f"keys/{2**62}", {}, 404, "There is no key"),
        ("DELETE", f"keys/{'9' * 30}", None, 404, "There is no key"),
        ("GET", "accounts?limit=0", None, 400, "$.limit"),
        ("GET", "usage?first_day=yesterday", None, 400, "$.first_day"),
        ("GET", "audit?offset=1", None, 400, "unknown field `offset`"),
    ],
)
async def test_invalid_requests_are_refused_with_a_reason(
    ada: AdminClient, method: str, path: str, body: dict[str, Any] | None, status: int, complaint: str
) -> None:
    path, _, query = path.partition("?")
    before = (await ada.get("audit", limit=1))["data"]
    result = await ada.send(method, path, status, json=body, params=query)
    assert complaint in result["error"]["message"]
    assert (await ada.get("audit", limit=1))["data"] == before


async def test_a_name_is_taken_once_and_an_account_never_overdrawn(ada: AdminClient) -> None:
    account = await ada.account()
    assert "already" in (await ada.post("accounts", 409, name=ada.name))["error"]["message"]
    refused = await ada.post(f"accounts/{account}/deposits", 400, amount="-0.01")
    assert "does not cover 0.01" in refused["error"]["message"]
    await ada.send("POST", "accounts", 413, content=b" " * 100_000)
    await ada.send("POST", "accounts", 400, content=b"\xff{")


@pytest.mark.parametrize(
    "action", ADMIN_ROUTES, ids=lambda action: f"{action.operation.method} {action.operation.path}"
)
async def test_without_an_admin_key_nothing_is_returned_or_changed(
    action: Any, accounting: AccountingServices, request: pytest.FixtureRequest
) -> None:
    database = accounting.database_thread.database
    client_key = create_key(database, create_account(database, request.node.name).id).secret
    app = echo_app(accounting=accounting, admin_keys={ADMIN_KEY: "ada"})
    method, path = action.operation.method, action.operation.path.replace("{account}", "1").replace("{key}", "1")
    async with client_of(app) as client:
        for header in (None, "", "Bearer ", f"Bearer {client_key}", f"Bearer {ADMIN_KEY}x", ADMIN_KEY):
            headers = {} if header is None else {"authorization": header}
            refused = await client.request(method, path, headers=headers, json={})
            assert refused.status_code == 401
            assert set(refused.json()) == {"error"}
            assert refused.headers["www-authenticate"] == "Bearer"
    for app in (echo_app(accounting=accounting), echo_app(admin_keys={ADMIN_KEY: "ada"})):
        async with client_of(app) as client:
            client.headers["authorization"] = f"Bearer {ADMIN_KEY}"
            assert (await client.request(method, path, json={})).status_code == 404


async def test_a_dialect_host_has_no_admin_api(accounting: AccountingServices) -> None:
    app = echo_app(accounting=accounting, admin_keys={ADMIN_KEY: "ada"}, hosts={"a.example": "arcee"})
    async with client_of(app, "a.example") as client:
        client.headers["authorization"] = f"Bearer {ADMIN_KEY}"
        assert (await client.get("/admin/accounts")).status_code == 404


def test_a_model_that_is_not_loaded_has_no_tool_format(tmp_path: Path) -> None:
    engine = LlamaEngine(tmp_path / "engine.sock", request_start=lambda: None)
    assert msgspec.to_builtins(model_state_body(Deployment.of("lazy", (), engine))) == {
        "model": "lazy",
        "ready": True,
        "failure": None,
        "tool_format": None,
        "supports_reasoning": None,
    }


async def test_models_are_listed_with_their_states(ada: AdminClient) -> None:
    listed = await ada.get("models")
    [state] = listed["data"]
    assert state == {
        "model": "echo",
        "ready": False,
        "failure": None,
        "tool_format": "generic",
        "supports_reasoning": False,
    }, "the app is not started"


async def test_upstreams_are_listed_added_drained_and_removed(ada: AdminClient) -> None:
    [own] = (await ada.get("upstreams"))["data"]
    assert (own["deployment"], own["url"], own["state"], own["requests_in_flight"]) == ("echo", None, "closed", 0)
    assert (own["paused_seconds"], own["other_requests"]) == (0, None)
    added = await ada.post("upstreams", deployment="echo", url="http://gpu:8000", kind="vllm", priority=1)
    name = added["upstream"]
    assert (name, added["draining"]) == ("echo/a1", False)
    assert (await ada.post("upstreams/drain", upstream=name))["draining"]
    assert not (await ada.post("upstreams/undrain", upstream=name))["draining"]
    assert (await ada.post("upstreams/drain", upstream=own["upstream"]))["url"] is None
    assert (await ada.post("upstreams/undrain", upstream=own["upstream"]))["upstream"] == own["upstream"]
    assert (await ada.post("upstreams/remove", upstream=name))["upstream"] == name
    for change in ("drain", "undrain", "remove"):
        await ada.post(f"upstreams/{change}", 404, upstream=name)
    await ada.post("upstreams/remove", 404, upstream=own["upstream"])
    await ada.post("upstreams", 404, deployment="owl", url="http://gpu:8000")
    for wrong in ({"url": "gpu"}, {"url": "http://gpu", "key": "sk-1"}, {"url": "http://gpu", "key_variable": "HOME"}):
        await ada.post("upstreams", 400, deployment="echo", **wrong)


@pytest.mark.parametrize(
    "name", ["team/search", "50 %", "a%2Fb", "what?", "c#", "a..b", "deposits", "größer als;", "x/y/z"]
)
async def test_an_account_is_found_by_any_name_that_it_may_have(ada: AdminClient, name: str) -> None:
    created = await ada.post("accounts", name=f"{name} {new_process_id()}")
    path = f"accounts/{quote(created['name'], safe='')}"
    assert await ada.get(path) == created
    made = await ada.post(f"{path}/deposits", amount="1.00")
    assert (await ada.get(f"{path}/deposits"))["data"] == [made]
