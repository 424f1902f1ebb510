"""The routes of the empower dialect as an app."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import BaseRoute

from dragoman.core.context import key_digest
from dragoman.dialects.http.context import HttpOptions
from dragoman.dialects.vendors.empower import routes
from dragoman.engines.base import Engine
from dragoman.engines.echo import EchoEngine
from dragoman.engines.llama.weights.adapter_files import LocalAdapterStore
from dragoman.gateway.auth.static_keys import StaticKeyAuthenticator
from dragoman.gateway.execution.metrics import RequestMetrics
from dragoman.gateway.gateway import Gateway
from dragoman.gateway.routing.adapters import RegistrationRules
from dragoman.gateway.routing.catalog import Catalog, Deployment
from tests.support.echo_engines import AdaptableEcho

KEY = "sk-0123456789abcdef"
MAX_BODY_BYTES = 100_000
CHAT = "/empower/api/v1/chat/completions"
LORA = "/empower/api/v1/lora"
HELLO: dict[str, Any] = {"model": "parrot", "messages": [{"role": "user", "content": "Hello"}]}
LOCAL_ADAPTER = {"model_name": "pirate", "model_source": "LOCAL"}
"""Files in the adapter folder of the tests."""


Routes = Callable[[Gateway, HttpOptions], list[BaseRoute]]


def gateway_of(
    *keys: str,
    engine: Engine | None = None,
    folder: Path | None = None,
    groups: Mapping[str, str] | None = None,
    allow_adapter_registration: bool = True,
) -> Gateway:
    """`groups`: the groups of keys that are in one."""
    catalog = Catalog(
        [
            Deployment.of("parrot", ("acme/parrot",), engine or AdaptableEcho()),
            Deployment.of("second", (), EchoEngine()),
        ]
    )
    return Gateway(
        catalog,
        RequestMetrics(CollectorRegistry()),
        StaticKeyAuthenticator(
            {key_digest(key): "build server" for key in keys},
            {key_digest(key): group for key, group in (groups or {}).items()},
        ),
        adapter_store=LocalAdapterStore(folder, downloads=False),
        registration_rules=RegistrationRules(allowed=allow_adapter_registration),
    )


def client_of(gateway: Gateway, make_routes: Routes = routes) -> httpx.AsyncClient:
    app = Starlette(routes=make_routes(gateway, HttpOptions(max_body_bytes=MAX_BODY_BYTES, keep_alive_seconds=15)))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")


def texts(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [choice["message"]["content"] for choice in response.json()["choices"]]


def error_of(response: httpx.Response, status: int) -> Any:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()["error"]


def refused(message: str, parameter: str | None, code: str | None, kind: str = "invalid_request_error") -> Any:
    return {"message": message, "type": kind, "param": parameter, "code": code}
