"""Authentication, and the choice of the dialect by host: the same for every route."""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from starlette.routing import Route
from starlette.types import Message

from dragoman.accounts.administration.keys import KeyRules
from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.auth.throttle import MAX_FAILURES
from dragoman.gateway.ledger_connection import AccountsOptions
from dragoman.server import admin
from dragoman.server.access import WHO_MAY, CallerKind, RouteClass, route_class
from dragoman.server.accounting import AccountingServices
from dragoman.server.app import App
from dragoman.server.origins import OriginPolicy
from tests.support.accounting import ADMIN_KEY
from tests.support.apps import KEY, client_of, echo_app
from tests.support.dialects.clients import DialectClient
from tests.support.metered import AccountFixture, sqlite_account
from tests.support.server import RunningServer
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

OPEN_PATHS = {"/health", "/ready", "/openapi.json", "/docs"}
"""The routes of load balancers, and the pages to read before one has a key."""

NOT_FOUND = '{"detail":"Not Found"}'

ADMIN_ROUTES = [(operation.method, operation.path) for operation in admin.OPERATIONS]

ROUTES = [
    (method, route.path)
    for route in echo_app().routes
    if isinstance(route, Route)
    for method in sorted((route.methods or set()) - {"HEAD"})
]


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if route[1] not in OPEN_PATHS])
@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer sk-somebody-elses-key"}])
async def test_every_route_rejects_requests_without_a_valid_key(
    method: str, path: str, headers: dict[str, str]
) -> None:
    path = re.sub(r"\{[^}]*\}", "echo", path)
    async with client_of(echo_app(keys=[KEY])) as client:
        response = await client.request(method, path, headers=headers)
        if response.status_code in (404, 405):
            admitted = await client.request(method, path, headers={"authorization": f"Bearer {KEY}"})
            assert admitted.status_code == response.status_code, "routes without a key do not depend on the caller"
        else:
            assert response.status_code == 401, response.text
    assert "sk-somebody" not in response.text


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
async def test_health_and_documentation_need_no_key(path: str) -> None:
    async with client_of(echo_app(keys=[KEY])) as client:
        assert (await client.get(path)).status_code in (200, 503)


async def test_metrics_accept_a_valid_key() -> None:
    async with client_of(echo_app(keys=[KEY])) as client:
        response = await client.get("/metrics", headers={"authorization": f"Bearer {KEY}"})
    assert response.status_code == 200


@pytest.mark.parametrize("host", ["empower.example.com", "EMPOWER.example.com", "empower.example.com:8443"])
async def test_a_mapped_host_serves_its_dialect_on_the_vendors_paths(host: str) -> None:
    app = echo_app(hosts={"Empower.Example.com": "empower"})
    async with client_of(app, host) as client:
        assert (await client.get("/api/v1/models")).json()["object"] == "list"
        assert (await client.get("/v1/models")).status_code == 404
        assert (await client.get("/echo/v1/completions")).status_code == 404
        assert (await client.get("/health")).status_code == 200
    async with client_of(app, "other.example.com") as client:
        assert "object" not in (await client.get("/api/v1/models")).json(), "the path is arcee's elsewhere"


async def test_only_trusted_proxies_may_set_the_forwarded_host() -> None:
    headers_sent = {"x-forwarded-host": "empower.example.com"}
    for proxies, status in (["127.0.0.1"], 200), (["10.0.0.1"], 404), ([], 404):
        async with client_of(echo_app(hosts={"empower.example.com": "empower"}, trusted_proxies=proxies)) as client:
            assert (await client.get("/base-model/echo", headers=headers_sent)).status_code == status


async def test_arcees_vendor_paths_are_served_on_its_own_host() -> None:
    app = echo_app(hosts={"arcee.example.com": "arcee"})
    async with client_of(app, "arcee.example.com") as client:
        assert (await client.get("/v1/models")).json() == (await client.get("/api/v1/models")).json()


OPEN = OriginPolicy(needs_key=False, hosts=["a.example"], origins=["https://chat.example.com"])
"""The policy of a server without keys."""


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"host": "evil.example"}, 421),
        ({"host": "a b"}, 400),
    ],
)
async def test_no_route_of_a_server_without_keys_serves_foreign_pages(headers: dict[str, str], status: int) -> None:
    async with client_of(echo_app(origin_policy=OPEN), "localhost") as client:
        for method, path in ROUTES:
            response = await client.request(method, path, headers=headers, content=b"{}")
            assert (response.status_code, list(response.json())) == (status, ["detail"]), f"{method} {path}"


async def test_scripts_and_pages_of_the_server_itself_are_served_without_keys(dialect: DialectClient) -> None:
    body = dialect.body("echo", "Hi", max_tokens=4)
    async with client_of(echo_app(origin_policy=OPEN), "localhost:8000") as client:
        for headers in (
            {"content-type": "application/x-www-form-urlencoded"},  # curl -d
            {"origin": "http://localhost:8000", "sec-fetch-site": "same-origin"},
            {"origin": "https://chat.example.com", "sec-fetch-site": "cross-site"},
        ):
            response = await client.post(dialect.path("echo"), json=body, headers=headers)
            assert response.status_code == 200, response.text
            assert ("access-control-allow-origin" in response.headers) is (
                headers.get("sec-fetch-site") == "cross-site"
            )


@pytest.mark.parametrize("host", ["localhost", "a.example"])
async def test_a_browser_may_use_every_route_from_an_allowed_origin_only(host: str) -> None:
    policy = OriginPolicy(needs_key=True, origins=["https://chat.example.com"])
    app = echo_app(keys=[KEY], hosts={"a.example": "arcee"}, origin_policy=policy)
    async with client_of(app, host) as client:
        for method, path in ROUTES:
            preflight = {
                "origin": "https://chat.example.com",
                "access-control-request-method": method,
                "access-control-request-headers": "authorization, content-type, idempotency-key",
            }
            answer = await client.options(path, headers=preflight)
            assert answer.status_code == (400 if method == "PUT" else 200)
            assert answer.headers["access-control-allow-origin"] == "https://chat.example.com"
            assert "idempotency-key" in answer.headers["access-control-allow-headers"]
            foreign = await client.options(path, headers=preflight | {"origin": "http://evil.example"})
            assert "access-control-allow-origin" not in foreign.headers
        refused = await client.get("/v1/models", headers={"origin": "https://chat.example.com"})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (
            401,
            "https://chat.example.com",
        )
        foreign = await client.get("/v1/models", headers={"origin": "http://evil.example"})
        assert "access-control-allow-origin" not in foreign.headers


async def test_no_headers_for_browsers_are_sent_unless_the_settings_ask_for_them() -> None:
    async with client_of(echo_app(keys=[KEY])) as client:
        preflight = {"origin": "https://chat.example.com", "access-control-request-method": "POST"}
        for response in (
            await client.options("/v1/chat/completions", headers=preflight),
            await client.get("/v1/models", headers={"origin": "https://chat.example.com"}),
        ):
            assert not any(name.startswith("access-control-") for name in response.headers)


@pytest.mark.parametrize(
    "host", ["empower.example.com.", "EMPOWER.example.com.:443", "empower.example.com:", "empower.example.com.:"]
)
async def test_no_spelling_of_a_mapped_host_leaves_its_dialect(host: str) -> None:
    async with client_of(echo_app(hosts={"empower.example.com": "empower"})) as client:
        headers = {"host": host}
        assert (await client.get("/v1/models", headers=headers)).status_code == 404
        assert (await client.get("/api/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("version", "hosts", "status"),
    [
        *(("1.1", [], 400), ("1.1", ["a.example", "localhost"], 400), ("1.1", ["localhost", "localhost"], 400)),
        *(("1.1", ["localhost"], 200), ("1.0", [], 200), ("1.0", ["a.example", "localhost"], 400)),
    ],
)
async def test_a_request_has_one_host(version: str, hosts: list[str], status: int) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/health",
        "http_version": version,
        "query_string": b"",
        "headers": [(b"host", host.encode()) for host in hosts],
    }
    await echo_app(origin_policy=OPEN)(scope, receive, send)
    assert sent[0]["status"] == status


async def test_the_host_that_the_last_proxy_reports_counts() -> None:
    app = echo_app(hosts={"empower.example.com": "empower"}, trusted_proxies=["127.0.0.0/8"], origin_policy=OPEN)
    async with client_of(app, "localhost") as client:
        for reported, status in (
            ("other.example, empower.example.com", 421),
            ("other.example, a.example", 404),
            ("other.example", 421),
        ):
            headers = {"x-forwarded-host": reported}
            assert (await client.get("/base-model/echo", headers=headers)).status_code == status


async def test_a_started_server_without_keys_refuses_foreign_pages(echo_server: RunningServer) -> None:
    """A real server, since its worker makes the policy of the settings."""
    async with httpx.AsyncClient(base_url=echo_server.url, timeout=TEST_TIMEOUT_SECONDS) as client:
        assert (await client.get("/v1/models")).status_code == 200
        assert (await client.get("/v1/models", headers={"host": "evil.example"})).status_code == 421
        assert (await client.get("/v1/models", headers={"origin": "http://evil.example"})).status_code == 403


@pytest.fixture
def account_fixture(tmp_path: Path) -> Iterator[AccountFixture]:
    with sqlite_account(tmp_path) as account_fixture:
        yield account_fixture


@contextlib.asynccontextmanager
async def app_with_accounts(account_fixture: AccountFixture, folder: Path) -> AsyncIterator[App]:
    options = AccountsOptions(database=account_fixture.database, journals=folder / "j", transport=LedgerThread)
    accounting = AccountingServices(options)
    async with accounting.opened():
        yield echo_app(accounting=accounting, admin_keys={ADMIN_KEY: "ada"}, trusted_proxies=["127.0.0.1"])


async def test_every_route_is_for_those_callers_that_the_table_names(
    account_fixture: AccountFixture, tmp_path: Path
) -> None:
    keys = {CallerKind.ANYONE: None, CallerKind.CLIENT: account_fixture.new_key(), CallerKind.ADMINISTRATOR: ADMIN_KEY}
    seen: Counter[RouteClass] = Counter()
    async with app_with_accounts(account_fixture, tmp_path) as app:
        for kind, key in keys.items():
            async with client_of(app, key=key) as client:
                for number, (method, path) in enumerate([*ROUTES, *ADMIN_ROUTES]):
                    # Each from another address, so that no request is throttled.
                    client.headers["x-forwarded-for"] = f"10.0.{number >> 8}.{number & 255}"
                    url = re.sub(r"\{[^}]*\}", "echo", path.replace("{id}", f"job_{'0' * 32}"))
                    response = await client.request(method, url, content=b"{}")
                    if response.status_code != 405 and response.text != NOT_FOUND:
                        allowed = kind in WHO_MAY[route_class(path)]
                        refused = response.status_code in (401, 429)
                        assert allowed is not refused, f"{method} {path} as {kind}: {response.text}"
                        seen[route_class(path)] += 1
    assert seen.keys() == set(RouteClass)


async def test_a_guess_counts_for_one_throttle_wherever_it_is_tried(
    account_fixture: AccountFixture, tmp_path: Path
) -> None:
    key = account_fixture.new_key()
    async with app_with_accounts(account_fixture, tmp_path) as app, client_of(app) as client:

        async def status(path: str, key: str) -> int:
            return (await client.get(path, headers={"authorization": f"Bearer {key}"})).status_code

        paths = ["/admin/accounts", "/metrics", "/v1/models"] * (MAX_FAILURES // 3)
        for number, path in enumerate(paths):
            assert await status(path, f"sk-wrong-{number}") == 401
        further = ["/admin/accounts"] * (MAX_FAILURES - len(paths) + 1)
        assert 429 in await asyncio.gather(*(status(path, "sk-wrong") for path in further))
        valid = await asyncio.gather(status("/admin/accounts", ADMIN_KEY), status("/v1/models", key))
        assert list(valid) == [200, 200]


async def test_metrics_show_a_client_the_models_that_its_key_may_use(
    account_fixture: AccountFixture, tmp_path: Path
) -> None:
    all_models, other_models = account_fixture.new_key(), account_fixture.new_key(KeyRules(models=("other",)))
    async with app_with_accounts(account_fixture, tmp_path) as app, client_of(app) as client:
        text = {}
        for key in (all_models, other_models):
            headers = {"authorization": f"Bearer {key}"}
            if key == all_models:
                body = {"model": "echo", "prompt": "Once", "max_tokens": 1}
                assert (await client.post("/v1/completions", headers=headers, json=body)).status_code == 200
            response = await client.get("/metrics", headers=headers)
            assert response.status_code == 200
            text[key] = response.text
    for name in ("dragoman_requests_total", "dragoman_engine_up", "dragoman_kv_cells"):
        shown = {key: f'{name}{{model="echo"' in text[key] for key in text}
        assert shown == {all_models: True, other_models: False}, name
    assert "echo" not in text[other_models]


async def test_documentation_can_be_kept_for_holders_of_keys() -> None:
    app = echo_app(keys=[KEY], public_docs=False)
    async with client_of(app) as stranger, client_of(app, key=KEY) as client:
        for path in ("/docs", "/openapi.json"):
            assert (await stranger.get(path)).status_code == 401
            assert (await client.get(path)).status_code == 200


async def test_strangers_learn_no_models_name() -> None:
    app = echo_app(keys=[KEY], engine=UnreadyEcho())
    async with client_of(app) as client:
        ready = await client.get("/ready")
        assert (ready.status_code, ready.json()) == (503, {"status": "unavailable", "models": 1, "not_answering": 1})
        assert "echo" not in (await client.get("/openapi.json")).text.replace('"echo":', "")


class UnreadyEcho(EchoEngine):
    """An engine that is being loaded."""

    ready = False
