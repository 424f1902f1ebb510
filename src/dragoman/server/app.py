"""The composition root of an HTTP worker: engines, gateway, dialects, one ASGI app."""

import contextlib
import uuid
from collections.abc import AsyncGenerator

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dragoman.dialects import infermatic
from dragoman.dialects.exchange import ExchangeOptions
from dragoman.gateway.catalog import Catalog
from dragoman.gateway.gateway import Gateway
from dragoman.gateway.meter import Meter
from dragoman.server import health, metrics


def build_app(catalog: Catalog, options: ExchangeOptions, *, metrics_directory: str | None) -> "App":
    """The whole app over the catalog's engines, which it starts and closes with its own life.

    `metrics_directory` is where the workers of one server gather their counts; None: this process counts alone.
    """
    registry = CollectorRegistry()
    gateway = Gateway(catalog, Meter(registry))
    return App(catalog, gateway, registry, options, metrics_directory)


class App:
    """An ASGI app, and the handle to drain it."""

    def __init__(
        self,
        catalog: Catalog,
        gateway: Gateway,
        registry: CollectorRegistry,
        options: ExchangeOptions,
        metrics_directory: str | None,
    ) -> None:
        self._catalog = catalog
        self.drain = gateway.drain
        app = Starlette(
            routes=[
                *health.routes(catalog),
                *metrics.routes(catalog, registry, metrics_directory),
                *infermatic.routes(gateway, options),
            ],
            exception_handlers={HTTPException: _http_error},
            lifespan=self._lifespan,
        )
        self._app: ASGIApp = _WithRequestId(_WithoutTrailingSlash(app))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncGenerator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for deployment in self._catalog.deployments:
                await deployment.engine.start()
                stack.push_async_callback(deployment.engine.close)
            yield


class _WithoutTrailingSlash:
    """Takes `/v1/models/` for `/v1/models`: a redirect would make clients drop the body or the key."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        await self._app(scope, receive, send)


class _WithRequestId:
    """Gives every response an `x-request-id`; answers of a dialect bring their own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start" and b"x-request-id" not in dict(message["headers"]):
                message = {**message, "headers": [*message["headers"], (b"x-request-id", uuid.uuid4().hex.encode())]}
            await send(message)

        await self._app(scope, receive, send_with_id if scope["type"] == "http" else send)


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for no other"
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)
