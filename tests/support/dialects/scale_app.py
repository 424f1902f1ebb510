"""The routes of the scale dialect as an app."""

from typing import Any

import httpx
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from dragoman.dialects.http.context import HttpOptions
from dragoman.dialects.vendors.scale import routes
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.auth.static_keys import NO_KEYS, StaticKeyAuthenticator
from dragoman.gateway.execution.metrics import RequestMetrics
from dragoman.gateway.gateway import Gateway
from dragoman.gateway.routing.catalog import Catalog, Deployment

MAX_BODY_BYTES = 100_000
CONTEXT = 1000
DEPLOYMENT_CHAT = "/v4/models/echo/chat-completions"
DEPLOYMENT_TEXT = "/v4/models/echo/completions"
CHAT = "/v4/chat-completions"
TEXT = "/v4/completions"
HELLO: dict[str, Any] = {
    "model": "echo",
    "prompt": "Hello",
    "chat_history": [],
    "messages": [{"role": "user", "content": "Hello"}],
}
"""Understood by all four completion routes."""


def gateway_of(engine: EchoEngine, keys: StaticKeyAuthenticator = NO_KEYS) -> Gateway:
    return Gateway(
        Catalog([Deployment.of("echo", ("acme/parrot",), engine)]), RequestMetrics(CollectorRegistry()), keys
    )


def client_of(gateway: Gateway) -> httpx.AsyncClient:
    app = Starlette(routes=routes(gateway, HttpOptions(max_body_bytes=MAX_BODY_BYTES, keep_alive_seconds=15)))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://server")


def detail_of(response: httpx.Response, status: int) -> Any:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["detail"]
    return response.json()["detail"]


def response_text(response: httpx.Response) -> str:
    """Return the text of an answer of any of the four routes."""
    assert response.status_code == 200, response.text
    match response.json():
        case {"completions": [[_, [text]]]}:
            return str(text)
        case {"chat_completion": {"message": {"content": text}}} | {"completion": {"text": text}}:
            return str(text)
    raise AssertionError(response.text)
