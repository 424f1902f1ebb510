"""nginx and Caddy with the files of deploy. They are processes; both are skipped where they are not installed."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.support.apps import echo_app
from tests.support.echo_engines import GatedEcho
from tests.support.hosts.chats import trusting
from tests.support.proxies import NAMES, missing, running_proxy
from tests.support.served_apps import serving
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

CHAT = {"model": "echo", "messages": [{"role": "user", "content": "parrot"}], "stream": True}

both = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.skipif(missing(name), reason=f"{name} is missing")) for name in NAMES]
)


class Recorder:
    """Notes the headers that arrive with the last request."""

    def __init__(self, app: ASGIApp) -> None:
        self.headers: dict[str, str] = {}
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        await self._app(scope, receive, send)


@contextlib.asynccontextmanager
async def client_through(
    name: str, folder: Path, app: ASGIApp, *, below: str = "/"
) -> AsyncGenerator[httpx.AsyncClient]:
    """Serve the app behind the proxy."""
    async with serving(app) as url:
        with running_proxy(name, folder, url.removeprefix("http://"), below=below) as proxy:
            context = trusting(proxy.certificate)
            async with httpx.AsyncClient(base_url=proxy.url, verify=context, timeout=TEST_TIMEOUT_SECONDS) as client:
                yield client


@both
async def test_tokens_pass_a_proxy_as_they_come_and_a_client_that_leaves_is_noticed(name: str, tmp_path: Path) -> None:
    engine = GatedEcho(is_open=False)
    async with client_through(name, tmp_path, echo_app(engine=engine)) as client:
        async with client.stream("POST", "/v1/chat/completions", json=CHAT) as response:
            assert response.status_code == 200
            lines = response.aiter_lines()
            async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
                while '"content":"p"' not in await anext(lines):
                    pass
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while not engine.cancelled:  # noqa: ASYNC110 - an engine has no event for it
                await asyncio.sleep(0.01)


@both
async def test_the_server_gets_the_address_of_the_client_whatever_that_sends(name: str, tmp_path: Path) -> None:
    app = Recorder(echo_app(trusted_proxies=["127.0.0.1"]))
    async with client_through(name, tmp_path, app) as client:
        response = await client.get("/v1/models", headers={"x-forwarded-for": "203.0.113.9"})
    assert response.status_code == 200
    assert app.headers["x-forwarded-for"] == "127.0.0.1"
    assert app.headers["x-forwarded-proto"] == "https"
    assert app.headers["host"].startswith("127.0.0.1")


@both
async def test_a_server_that_is_gone_is_an_error_that_clients_can_read(name: str, tmp_path: Path) -> None:
    async with client_through(name, tmp_path, echo_app()) as client:
        assert (await client.get("/health")).status_code == 200
    with running_proxy(name, tmp_path, "127.0.0.1:9") as proxy:
        context = trusting(proxy.certificate)
        async with httpx.AsyncClient(base_url=proxy.url, verify=context, timeout=TEST_TIMEOUT_SECONDS) as client:
            response = await client.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["type"] == "error"
    assert response.json()["error"]["message"] == "The server is not reachable"


@pytest.mark.skipif(missing("nginx"), reason="nginx is missing")
async def test_nginx_may_serve_it_below_a_path(tmp_path: Path) -> None:
    app = echo_app(root_path="/llm")
    async with client_through("nginx", tmp_path, app, below="/llm/") as client:
        assert (await client.get("/llm/v1/models")).status_code == 200
        assert "/llm/openapi.json" in (await client.get("/llm/docs")).text
        assert (await client.get("/v1/models")).status_code == 403, "nginx's own, which has nothing there"
