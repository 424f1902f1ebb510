"""The composition root of an HTTP worker: engines, gateway, dialects, one ASGI app."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import BaseRoute

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.thread import DatabaseThread
from dragoman.core.responses import ResponseStore
from dragoman.dialects.http.context import HeaderRoutes, HttpOptions
from dragoman.dialects.registry import DialectName
from dragoman.engines.base import AdapterStore
from dragoman.gateway.admission.recording import UNMETERED_ADMISSION, UnmeteredAdmission
from dragoman.gateway.auth.static_keys import NO_KEYS, StaticKeyAuthenticator
from dragoman.gateway.execution.body_store import DatabaseBodyStore
from dragoman.gateway.execution.jobs import GatewayJobExecutor
from dragoman.gateway.gateway import Gateway
from dragoman.gateway.remote_images import ImageFetcher
from dragoman.gateway.routing.adapters import RegistrationRules
from dragoman.gateway.routing.catalog import Catalog
from dragoman.jobs.metrics import QueueMetrics
from dragoman.jobs.service.queue import JobQueue
from dragoman.server import health, metrics, openapi
from dragoman.server.access import AccessControl
from dragoman.server.accounting import AccountingServices
from dragoman.server.console import Console, ConsoleOptions, ShownSettings
from dragoman.server.console.services import ConsoleServices
from dragoman.server.dialects import DIALECTS, ENDPOINT_CODECS, HOST_ROUTES, documented_operations, v1_routes
from dragoman.server.middleware import (
    BelowRootPath,
    HostGuard,
    NewestApp,
    ResponseBorder,
    RoutedApp,
    WithoutEmptySegments,
    by_host,
    with_cors,
)
from dragoman.server.origins import SERVE_ALL, OriginPolicy, parse_host_name
from dragoman.server.replica_loads import read_loads
from dragoman.server.tracing import Tracing
from dragoman.server.upstream_changes import Connect, UpstreamChanges

NO_HOSTS: Mapping[str, DialectName] = {}


class LiveOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload of the settings can change."""

    http: HttpOptions
    keys: StaticKeyAuthenticator = NO_KEYS
    admin_keys: StaticKeyAuthenticator = NO_KEYS
    hosts: Mapping[str, DialectName] = NO_HOSTS
    origin_policy: OriginPolicy = SERVE_ALL
    registration_rules: RegistrationRules | None = None
    ready_timeout_seconds: float = health.READY_TIMEOUT_SECONDS
    state: metrics.SettingsState | None = None
    """None: there are no reloads."""
    vllm_metrics: bool = False
    """Whether metrics are exported under vLLM's names too."""
    console: ShownSettings | None = None
    """The settings in effect, which the console shows. None: there is no console."""


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
    console: ConsoleOptions | None = None,
    connect_upstream: Connect | None = None,
    images: ImageFetcher | None = None,
) -> "App":
    """Build the app over the catalog's engines, which start and close with it.

    - `metrics_directory` is where the workers of one server collect their counts. None: this process counts alone.
    - Requests need one of `keys` and are admitted by `admission`, or with `accounting` by its keys and accounts.
    - `hosts` are names that serve one dialect only. X-Forwarded-Host is trusted from `options.trusted_proxies`.
    - `adapter_store` has the adapters that clients may register by the `registration_rules`. None: there are none.
    - `admin_keys` open /admin, which needs `accounting`. Without any, there is no /admin.
    - `origin_policy` decides under which host names, and to which web pages, requests are served.
    - Each part has `ready_timeout_seconds` to answer /ready.
    - `connect_upstream` connects to the upstreams that administrators add. None: their changes are not followed.
    - `queue` uses the same database as `accounting` or as the records of `admission`. None: nothing is queued.
    - `console` makes the pages of /console. None: there are none.
    - `images` fetches images at http(s) addresses, which need `options.fetches_images`.
    """
    live = LiveOptions(
        http=options,
        keys=keys,
        admin_keys=admin_keys,
        hosts=hosts,
        origin_policy=origin_policy,
        registration_rules=registration_rules,
        ready_timeout_seconds=ready_timeout_seconds,
        console=None if console is None else console.shown,
    )
    services = AppServices(
        catalog,
        metrics_directory,
        admission=admission,
        accounting=accounting,
        adapter_store=adapter_store,
        queue=queue,
        console_database=None if console is None else console.database,
        response_store=options.response_store,
        body_store=_body_store(console),
        connect_upstream=connect_upstream,
        images=images,
    )
    return services.app(live)


class AppServices:
    """What an app has for as long as its process lives, whatever its settings are."""

    def __init__(
        self,
        catalog: Catalog,
        metrics_directory: str | None,
        *,
        admission: UnmeteredAdmission,
        accounting: AccountingServices | None,
        adapter_store: AdapterStore | None,
        queue: JobQueue | None,
        console_database: Database | None = None,
        response_store: ResponseStore | None = None,
        body_store: DatabaseBodyStore | None = None,
        tracing: Tracing | None = None,
        connect_upstream: Connect | None = None,
        images: ImageFetcher | None = None,
    ) -> None:
        """See build_app. The console reads `console_database`, that of the accounts or of the records.

        Without a `response_store`, responses are not stored. `tracing` makes spans; None: there are none.
        """
        registry = CollectorRegistry()
        request_metrics = metrics.request_metrics(registry, tracing)
        routing_metrics = metrics.routing_metrics(catalog, registry)
        changes = None
        if accounting is not None and connect_upstream is not None:
            changes = UpstreamChanges(catalog, accounting.database_thread, connect_upstream, routing_metrics)
        self._accounting = accounting
        ledger = metrics.observed_ledger(admission if accounting is None else accounting.admission, registry)
        self._console_thread = None if console_database is None else DatabaseThread(console_database)
        self._response_store = response_store
        self._body_store = body_store
        self._catalog = catalog
        self._gateway = Gateway(
            catalog,
            request_metrics,
            NO_KEYS,
            admission if accounting is None else accounting.admission,
            adapter_store=adapter_store,
            usage_database=None if accounting is None else accounting.database_thread,
            queue=queue,
            images=images,
        )
        self._executor = GatewayJobExecutor(catalog, request_metrics)
        self._metrics_sources = metrics.MetricsSources(catalog, registry, metrics_directory, queue, ledger=ledger)
        self._lifespan = partial(
            _lifespan,
            catalog=catalog,
            admission=admission if accounting is None else accounting,
            open_others=[each.opened for each in (response_store, body_store, images) if each is not None],
            open_queue=_queue_opener(queue, self._executor, registry),
            console_thread=self._console_thread,
            upstream_changes=changes,
        )

    def app(self, live: LiveOptions) -> "App":
        """Build an app with these options. Apps that were built before go on with theirs."""
        accounting = self._accounting
        authenticator = live.keys if accounting is None else accounting.authenticator
        gateway = self._gateway.with_keys(authenticator, live.registration_rules or RegistrationRules())
        self._executor.use_keys(authenticator)
        options = msgspec.structs.replace(live.http, response_store=self._response_store)
        if self._body_store is not None and self._body_store.is_keeping:
            options = msgspec.structs.replace(options, body_store=self._body_store)
        if accounting is not None:
            options = msgspec.structs.replace(options, idempotency_store=accounting.idempotency_store)
        access = AccessControl(gateway, options, live.admin_keys)
        sources = self._metrics_sources._replace(settings=live.state, vllm_names=live.vllm_metrics)
        check = None if accounting is None else accounting.is_answering
        readiness = health.ReadinessCheck(self._catalog, check, live.ready_timeout_seconds)
        has_admin = accounting is not None and live.admin_keys.needs_key
        return App(
            gateway,
            sources,
            options,
            readiness,
            hosts=live.hosts,
            origin_policy=live.origin_policy,
            admin_routes=self._admin_routes(access) if has_admin else [],
            access=access,
            lifespan=self._lifespan,
            console=self._console(live, gateway, sources, readiness),
        )

    def retire(self) -> None:
        """Leave queued requests to other servers from now on."""
        if self._metrics_sources.queue is not None:
            self._metrics_sources.queue.retire()

    def _console(
        self,
        live: LiveOptions,
        gateway: Gateway,
        sources: metrics.MetricsSources,
        readiness: health.ReadinessCheck,
    ) -> Console | None:
        if live.console is None:
            return None
        services = ConsoleServices(
            gateway=gateway,
            http=live.http,
            keys=live.keys,
            admin_keys=live.admin_keys,
            thread=self._console_thread,
            has_accounts=self._accounting is not None,
            metrics=sources,
            readiness=readiness,
            settings=live.console.settings,
            setting_origins=live.console.origins,
        )
        return Console(services)

    def _admin_routes(self, access: AccessControl) -> list[BaseRoute]:
        from dragoman.server import admin  # Most servers have none.

        assert self._accounting is not None
        directory = self._metrics_sources.directory
        server_folder = None if directory is None else Path(directory)
        return admin.routes(self._accounting.database_thread, access, self._catalog, server_folder)


class ReloadableApp(NewestApp["App"]):
    """The app with the newest options."""

    def __init__(self, services: AppServices, live: LiveOptions) -> None:
        super().__init__(services.app(live))
        self._services = services

    def reload(self, live: LiveOptions) -> None:
        """Serve requests that begin from now on with these options. Live pages of the console connect again."""
        before, self.app = self.app, self._services.app(live)
        before.end_console_streams()

    def retire(self) -> None:
        """Leave queued requests to other servers from now on."""
        self._services.retire()

    def drain(self) -> None:
        """Refuse new requests from now on."""
        self.app.drain()


def _body_store(console: ConsoleOptions | None) -> DatabaseBodyStore | None:
    if console is None or console.database is None:
        return None
    return DatabaseBodyStore(console.database, console.shown.settings.console.body_rules)


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
    open_others: Sequence[Callable[[], AbstractAsyncContextManager[None]]],
    open_queue: Callable[[], AbstractAsyncContextManager[None]] | None,
    console_thread: DatabaseThread | None,
    upstream_changes: UpstreamChanges | None,
) -> AsyncGenerator[None]:
    # The queue ends first, since it requeues what the engines run for it. The engines end before admission does:
    # requests that still run then fail, and are settled.
    async with admission.opened(), contextlib.AsyncExitStack() as stack:
        for deployment in catalog.deployments:
            for engine in deployment.engines:
                await engine.start()
                stack.push_async_callback(engine.close)
        await stack.enter_async_context(read_loads(catalog.deployments))
        if console_thread is not None:
            stack.push_async_callback(asyncio.to_thread, console_thread.close)
        for opened in open_others:
            await stack.enter_async_context(opened())
        if upstream_changes is not None:
            await stack.enter_async_context(upstream_changes.followed())
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
        console: Console | None = None,
    ) -> None:
        self._gateway = gateway
        self._console = console
        common = [
            *health.routes(
                readiness,
                names_models=not gateway.needs_key,
                generation=None if metrics_sources.settings is None else metrics_sources.settings.generation,
            ),
            *metrics.routes(metrics_sources, access),
            *_documentation(gateway, options, access, documents_admin=bool(admin_routes)),
        ]
        dialects = {
            name: (gateway.for_dialect(name), msgspec.structs.replace(options, dialect=name, codecs=ENDPOINT_CODECS))
            for name in DIALECTS
        }
        routes = [route for name, dialect in DIALECTS.items() for route in dialect.routes(*dialects[name])]
        routes = [*v1_routes(*dialects["openai"]), *routes]
        routes.sort(key=lambda route: not isinstance(route, HeaderRoutes))  # The others keep their order.
        pages = [] if console is None else console.routes()
        self.routes = [*common, *admin_routes, *routes, *pages]
        app = RoutedApp(self.routes, lifespan)
        if console is not None:
            console.api = app
        apps_by_host = {
            parse_host_name(host): RoutedApp([*common, *HOST_ROUTES[dialect](*dialects[dialect])])
            for host, dialect in hosts.items()
        }
        select = with_cors(by_host(app, apps_by_host), origin_policy)
        guard = HostGuard(select, origin_policy, options.trusted_proxies)
        border = ResponseBorder(guard.select, access_log=options.access_log)
        super().__init__(BelowRootPath(border, options.root_path) if options.root_path else border)

    def drain(self) -> None:
        """Refuse new requests from now on, and end the console's streams. Running requests continue."""
        self._gateway.drain()
        self.end_console_streams()

    def end_console_streams(self) -> None:
        """Let the live pages of the console connect again."""
        if self._console is not None:
            self._console.drain()


def _documentation(
    gateway: Gateway, options: HttpOptions, access: AccessControl, *, documents_admin: bool
) -> list[BaseRoute]:
    operations = documented_operations(options.v1_dialect)
    if documents_admin:
        from dragoman.server import admin

        operations = {**operations, "admin": admin.OPERATIONS}
    features = openapi.DocumentedFeatures(options.idempotency_store is not None, gateway.has_queue)
    return openapi.routes(operations, access, features, options.root_path)
