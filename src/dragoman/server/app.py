"""The composition root of an HTTP worker: engines, gateway, dialects, one ASGI app."""

import contextlib
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

import msgspec
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dragoman.dialects.http.context import HttpOptions
from dragoman.engines.base import AdapterStore
from dragoman.gateway.auth.static_keys import NO_KEYS, StaticKeyAuthenticator
from dragoman.gateway.execution.metrics import RequestMetrics
from dragoman.gateway.execution.queued import GatewayJobExecutor
from dragoman.gateway.gateway import Gateway
from dragoman.gateway.routing.catalog import Catalog
from dragoman.jobs.metrics import QueueMetrics
from dragoman.jobs.service.queue import JobQueue
from dragoman.jobs.worker.executor import JobExecutor
from dragoman.server import admin, health, metrics, openapi
from dragoman.server.accounting import AccountingServices
from dragoman.server.dialects import DIALECTS, ENDPOINT_CODECS, OPERATIONS
from dragoman.server.settings import DialectName

NO_HOSTS: Mapping[str, DialectName] = {}


def build_app(
    catalog: Catalog,
    options: HttpOptions,
    *,
    metrics_directory: str | None,
    keys: StaticKeyAuthenticator = NO_KEYS,
    hosts: Mapping[str, DialectName] = NO_HOSTS,
    adapter_store: AdapterStore | None = None,
    accounting: AccountingServices | None = None,
    admin_keys: StaticKeyAuthenticator = NO_KEYS,
    queue: JobQueue | None = None,
) -> "App":
    """The whole app over the catalog's engines, which it starts and closes with its own life.

    `metrics_directory` is where the workers of one server gather their counts; None: this process counts alone.
    `keys` open it, or where there are `books` the keys of their accounts. `hosts` are names on which only one dialect
    answers; the X-Forwarded-Host of `options.proxies` is believed. `store` is where adapters are found that clients ask
    for; None: nowhere. Whoever has one of the `admin_keys` may change the books under /admin; without any there is no
    /admin. `queue` is where requests may wait, over the same database as the `books` or what `keys` record; None:
    nowhere.
    """
    registry = CollectorRegistry()
    counters = RequestMetrics(registry)
    access = keys if accounting is None else accounting.access
    records = None if accounting is None else accounting.database_thread
    gateway = Gateway(catalog, counters, access, adapter_store, usage_database=records, queue=queue)
    job_executor = GatewayJobExecutor(catalog, counters)
    lifespan_context = _AppLifespan(
        catalog, keys.opened if accounting is None else accounting.opened, queue, job_executor, QueueMetrics(registry)
    )
    metrics_sources = metrics.MetricsSources(catalog, registry, metrics_directory, queue)
    if accounting is None:
        return App(metrics_sources, gateway, lifespan_context, options, hosts)
    options = msgspec.structs.replace(options, idempotency_store=accounting.idempotency_store)
    admin_routes = admin.routes(accounting.database_thread, admin_keys) if admin_keys.needs_key else []
    return App(metrics_sources, gateway, lifespan_context, options, hosts, admin_routes)


class _AppLifespan:
    """All that lives as long as the app does."""

    def __init__(
        self,
        catalog: Catalog,
        accounting_lifespan: Callable[[], contextlib.AbstractAsyncContextManager[None]],
        queue: JobQueue | None,
        job_executor: JobExecutor,
        counters: QueueMetrics,
    ) -> None:
        """`books` keeps those open who let requests in, `workshop` runs what waits in the queue, `meter` counts it."""
        self._catalog = catalog
        self._accounting_lifespan = accounting_lifespan
        self._queue = queue
        self._job_executor = job_executor
        self._queue_metrics = counters

    @contextlib.asynccontextmanager
    async def __call__(self) -> AsyncGenerator[None]:
        # Engines end before the books are closed: what still runs then fails, and is settled. The queue ends first: it
        # takes back what the engines run for it.
        async with self._accounting_lifespan(), contextlib.AsyncExitStack() as stack:
            for deployment in self._catalog.deployments:
                await deployment.engine.start()
                stack.push_async_callback(deployment.engine.close)
            if self._queue is not None:
                await stack.enter_async_context(self._queue.opened(self._job_executor, self._queue_metrics))
            yield


class App:
    """An ASGI app, and the handle to drain it."""

    def __init__(
        self,
        metrics_sources: metrics.MetricsSources,
        gateway: Gateway,
        lifespan_context: Callable[[], contextlib.AbstractAsyncContextManager[None]],
        options: HttpOptions,
        hosts: Mapping[str, DialectName],
        admin_routes: Sequence[BaseRoute] = (),
    ) -> None:
        """`shown` are what the metrics tell of; `opened` is entered for as long as the app lives."""
        self._lifespan_context = lifespan_context
        self.drain = gateway.drain
        documented = {**OPERATIONS, "admin": admin.OPERATIONS} if admin_routes else OPERATIONS
        common = [
            *health.routes(metrics_sources.catalog),
            *metrics.routes(metrics_sources, gateway, options),
            *openapi.routes(
                documented,
                gateway,
                openapi.DocumentedFeatures(options.idempotency_store is not None, gateway.has_queue),
            ),
        ]
        dialects = {
            name: (gateway.for_dialect(name), msgspec.structs.replace(options, dialect=name, codecs=ENDPOINT_CODECS))
            for name in DIALECTS
        }
        routes = [route for name, dialect in DIALECTS.items() for route in dialect.routes(*dialects[name])]
        self.routes = [*common, *admin_routes, *routes]
        app = Starlette(routes=self.routes, exception_handlers={HTTPException: _http_error}, lifespan=self._lifespan)
        apps_by_host = {
            host.lower(): Starlette(
                routes=[*common, *DIALECTS[dialect].vendor_routes(*dialects[dialect])],
                exception_handlers={HTTPException: _http_error},
            )
            for host, dialect in hosts.items()
        }
        self._app: ASGIApp = _WithRequestId(_WithoutTrailingSlash(_ByHost(app, apps_by_host, options.trusted_proxies)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncGenerator[None]:
        async with self._lifespan_context():
            yield


class _WithoutTrailingSlash:
    """Takes `/v1/models/` for `/v1/models`: a redirect would make clients drop the body or the key."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        await self._app(scope, receive, send)


class _ByHost:
    """Answers on a mapped host name with its dialect's routes alone. Case and port do not matter."""

    def __init__(self, app: ASGIApp, apps_by_host: Mapping[str, ASGIApp], proxies: frozenset[str]) -> None:
        self._app = app
        self._apps_by_host = apps_by_host
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if self._apps_by_host and scope["type"] == "http":
            host = self._host(scope).lower()
            app = self._apps_by_host.get(host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host, app)
        await app(scope, receive, send)

    def _host(self, scope: Scope) -> str:
        headers = Headers(scope=scope)
        address, _ = scope.get("client") or ("", 0)
        forwarded = headers.get("x-forwarded-host") if address in self._proxies else None
        return forwarded or headers.get("host", "")


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
