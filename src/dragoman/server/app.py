"""The composition root of an HTTP worker: engines, gateway, dialects, one ASGI app."""

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial

import msgspec
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp

from dragoman.dialects.http.context import HttpOptions
from dragoman.engines.base import AdapterStore
from dragoman.gateway.admission.recording import UNMETERED_ADMISSION, UnmeteredAdmission
from dragoman.gateway.auth.static_keys import NO_KEYS, StaticKeyAuthenticator
from dragoman.gateway.execution.jobs import GatewayJobExecutor
from dragoman.gateway.execution.metrics import RequestMetrics
from dragoman.gateway.gateway import Gateway
from dragoman.gateway.routing.adapters import RegistrationRules
from dragoman.gateway.routing.catalog import Catalog
from dragoman.jobs.metrics import QueueMetrics
from dragoman.jobs.service.queue import JobQueue
from dragoman.server import admin, health, metrics, openapi
from dragoman.server.access import AccessControl
from dragoman.server.accounting import AccountingServices
from dragoman.server.dialects import DIALECTS, ENDPOINT_CODECS, OPERATIONS
from dragoman.server.middleware import BelowRootPath, ByHost, HostGuard, ResponseBorder, WithoutEmptySegments, with_cors
from dragoman.server.origins import SERVE_ALL, OriginPolicy, parse_host_name
from dragoman.server.settings import DialectName

NO_HOSTS: Mapping[str, DialectName] = {}


def build_app(
    catalog: Catalog,
    options: HttpOptions,
    *,
    metrics_directory: str | None,
    keys: StaticKeyAuthenticator = NO_KEYS,
    admission: UnmeteredAdmission = UNMETERED_ADMISSION,
    hosts: Mapping[str, DialectName] = NO_HOSTS,
    adapter_store: AdapterStore | None = None,
    registration_rules: RegistrationRules | None = None,
    accounting: AccountingServices | None = None,
    admin_keys: StaticKeyAuthenticator = NO_KEYS,
    queue: JobQueue | None = None,
    origin_policy: OriginPolicy = SERVE_ALL,
    ready_timeout_seconds: float = health.READY_TIMEOUT_SECONDS,
) -> "App":
    """Build the app over the catalog's engines, which start and close with it.

    - `metrics_directory` is where the workers of one server collect their counts. None: this process counts alone.
    - Requests need one of `keys` and are admitted by `admission`, or with `accounting` by its keys and accounts.
    - `hosts` are names that serve one dialect only. X-Forwarded-Host is trusted from `options.trusted_proxies`.
    - `adapter_store` has the adapters that clients may register by the `registration_rules`. None: there are none.
    - `admin_keys` open /admin, which needs `accounting`. Without any, there is no /admin.
    - `origin_policy` decides under which host names, and to which web pages, requests are served.
    - Each part has `ready_timeout_seconds` to answer /ready.
    - `queue` uses the same database as `accounting` or as the records of `admission`. None: nothing is queued.
    """
    registry = CollectorRegistry()
    request_metrics = RequestMetrics(registry)
    database = None if accounting is None else accounting.database_thread
    authenticator = keys if accounting is None else accounting.authenticator
    gateway = Gateway(
        catalog,
        request_metrics,
        authenticator,
        admission if accounting is None else accounting.admission,
        adapter_store=adapter_store,
        registration_rules=registration_rules,
        usage_database=database,
        queue=queue,
    )
    if accounting is not None:
        options = msgspec.structs.replace(options, idempotency_store=accounting.idempotency_store)
    access = AccessControl(gateway, options, admin_keys)
    return App(
        gateway,
        metrics.MetricsSources(catalog, registry, metrics_directory, queue),
        options,
        health.ReadinessCheck(catalog, None if accounting is None else accounting.is_answering, ready_timeout_seconds),
        hosts=hosts,
        origin_policy=origin_policy,
        admin_routes=[] if database is None or not admin_keys.needs_key else admin.routes(database, access, catalog),
        access=access,
        lifespan=partial(
            _lifespan,
            catalog=catalog,
            admission=admission if accounting is None else accounting,
            open_queue=_queue_opener(queue, GatewayJobExecutor(catalog, request_metrics, authenticator), registry),
        ),
    )


def _queue_opener(
    queue: JobQueue | None, executor: GatewayJobExecutor, registry: CollectorRegistry
) -> Callable[[], AbstractAsyncContextManager[None]] | None:
    return None if queue is None else partial(queue.opened, executor, QueueMetrics(registry))


@contextlib.asynccontextmanager
async def _lifespan(
    _app: Starlette,
    *,
    catalog: Catalog,
    admission: UnmeteredAdmission | AccountingServices,
    open_queue: Callable[[], AbstractAsyncContextManager[None]] | None,
) -> AsyncGenerator[None]:
    # The queue ends first, since it requeues what the engines run for it. The engines end before admission does:
    # requests that still run then fail, and are settled.
    async with admission.opened(), contextlib.AsyncExitStack() as stack:
        for deployment in catalog.deployments:
            for engine in deployment.engines:
                await engine.start()
                stack.push_async_callback(engine.close)
        if open_queue is not None:
            await stack.enter_async_context(open_queue())
        yield


class App(WithoutEmptySegments):
    """An ASGI app, and the handle to drain it."""

    def __init__(
        self,
        gateway: Gateway,
        metrics_sources: metrics.MetricsSources,
        options: HttpOptions,
        readiness: health.ReadinessCheck,
        *,
        hosts: Mapping[str, DialectName],
        origin_policy: OriginPolicy,
        admin_routes: Sequence[BaseRoute],
        access: AccessControl,
        lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]],
    ) -> None:
        self.drain = gateway.drain
        common = [
            *health.routes(readiness, names_models=not gateway.needs_key),
            *metrics.routes(metrics_sources, access),
            *_documentation(gateway, options, access, documents_admin=bool(admin_routes)),
        ]
        dialects = {
            name: (gateway.for_dialect(name), msgspec.structs.replace(options, dialect=name, codecs=ENDPOINT_CODECS))
            for name in DIALECTS
        }
        routes = [route for name, dialect in DIALECTS.items() for route in dialect.routes(*dialects[name])]
        self.routes = [*common, *admin_routes, *routes]
        app = _router(self.routes, lifespan)
        apps_by_host = {
            parse_host_name(host): _router([*common, *DIALECTS[dialect].vendor_routes(*dialects[dialect])])
            for host, dialect in hosts.items()
        }
        by_host = ByHost(app, apps_by_host)
        guard = HostGuard(with_cors(by_host, origin_policy), origin_policy, options.trusted_proxies)
        border = ResponseBorder(guard, access_log=options.access_log)
        super().__init__(BelowRootPath(border, options.root_path) if options.root_path else border)


def _router(
    routes: Sequence[BaseRoute], lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]] | None = None
) -> ASGIApp:
    """Route requests. Starlette's own app would answer unexpected errors with plain text."""
    return ExceptionMiddleware(Router(routes, lifespan=lifespan), {HTTPException: _http_error})


def _documentation(
    gateway: Gateway, options: HttpOptions, access: AccessControl, *, documents_admin: bool
) -> list[BaseRoute]:
    operations = {**OPERATIONS, "admin": admin.OPERATIONS} if documents_admin else OPERATIONS
    features = openapi.DocumentedFeatures(options.idempotency_store is not None, gateway.has_queue)
    return openapi.routes(operations, access, features, options.root_path)


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "the handler is registered for HTTPException only"
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)
