"""Authentication, and the choice of the dialect by host: the same for every route."""

import re

import pytest
from starlette.routing import Route

from tests.support.apps import KEY, client_of, echo_app

OPEN_PATHS = {"/health", "/ready", "/openapi.json", "/docs"}
"""The routes of load balancers, and the pages to read before one has a key."""

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
