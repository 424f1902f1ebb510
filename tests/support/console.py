"""The console over an echo engine in this process: for clients without a browser, and on a port for browsers."""

import asyncio
import contextlib
import re
import socket
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from pathlib import Path

import httpx
import uvicorn

from dragoman.accounts.database.connections import Database
from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.core.addresses import AddressSet
from dragoman.core.context import key_digest
from dragoman.dialects.http.context import HttpOptions
from dragoman.engines.base import Engine
from dragoman.engines.echo import EchoEngine
from dragoman.engines.reported_load import LoadReports, ReportedLoad
from dragoman.gateway.admission.recording import UNMETERED_ADMISSION, UsageRecordingAdmission
from dragoman.gateway.auth.static_keys import StaticKeyAuthenticator
from dragoman.gateway.ledger_connection import AccountsOptions
from dragoman.gateway.routing.catalog import Catalog, Deployment
from dragoman.gateway.routing.replica import Replica
from dragoman.gateway.routing.router_options import RouterOptions
from dragoman.jobs.service.queue import JobQueue
from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.webhooks.options import NO_WEBHOOKS, WebhookOptions
from dragoman.server.accounting import AccountingServices
from dragoman.server.app import App, build_app
from dragoman.server.console import ConsoleOptions, ShownSettings
from dragoman.server.console_settings import ConsoleSettings
from dragoman.server.origins import OriginPolicy
from dragoman.server.settings import DeploymentSettings, QueueSettings, Settings
from dragoman.server.upstream_changes import AddedUpstream
from tests.support.accounting import ADMIN_KEY
from tests.support.apps import running_app
from tests.support.talkative_engines import ProbedEcho
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

CHAT = {"model": "echo", "messages": [{"role": "user", "content": "Good morning"}]}

TOKEN = re.compile(r'name="form-token" content="(\w+)"|name="form_token" value="(\w+)"')


def console_app(
    database: Database | None,
    journals: Path,
    *,
    has_accounts: bool = True,
    keys: Mapping[str, str] | None = None,
    engines: Mapping[str, Engine] | None = None,
    deployments: Sequence[Deployment] = (),
    lazy: Sequence[str] = (),
    console: ConsoleSettings | None = None,
    origins: Mapping[str, str] | None = None,
    concurrent_jobs: int = 16,
    webhooks: WebhookOptions = NO_WEBHOOKS,
    result_ttl_hours: float = 24.0,
    proxies: tuple[str, ...] = (),
    root_path: str = "",
    host: str = "127.0.0.1",
    allowed_hosts: tuple[str, ...] = (),
) -> App:
    """Build the app. With accounts ADMIN_KEY is an operator's; `keys` are those of the settings → names.

    `engines` answer for deployments of their names, beside the other `deployments`. Those in `lazy` may be unloaded.
    """
    own = [Deployment.of(name, (), engine) for name, engine in (engines or {"echo": EchoEngine()}).items()]
    catalog = Catalog([*own, *deployments])
    settings = Settings(
        console=console or ConsoleSettings(),
        queue=QueueSettings(result_ttl_hours=result_ttl_hours),
        root_path=root_path or None,
        host=host,
        deployments=tuple(DeploymentSettings(name=name, model="echo", load="lazy") for name in lazy),
    )
    http = HttpOptions(
        max_body_bytes=100_000, keep_alive_seconds=15, trusted_proxies=AddressSet.parse(proxies), root_path=root_path
    )
    static = StaticKeyAuthenticator({key_digest(key): name for key, name in (keys or {}).items()})
    admin = StaticKeyAuthenticator({key_digest(ADMIN_KEY): "ada"} if has_accounts else {})
    options = None
    if database is not None:
        options = AccountsOptions(database=database, journals=journals, transport=LedgerThread)
    accounting = AccountingServices(options) if options is not None and has_accounts else None
    is_recorded = options is not None and not has_accounts
    return build_app(
        catalog,
        http,
        metrics_directory=None,
        keys=static,
        admission=UsageRecordingAdmission(options) if options is not None and is_recorded else UNMETERED_ADMISSION,
        accounting=accounting,
        admin_keys=admin,
        queue=None if database is None else JobQueue(database, QueueOptions(concurrency=concurrent_jobs), 0, webhooks),
        origin_policy=OriginPolicy(needs_key=has_accounts or bool(keys), hosts=allowed_hosts),
        console=ConsoleOptions(ShownSettings(settings, origins or {}), database),
        connect_upstream=connect_to_echo,
    )


def connect_to_echo(name: str, upstream: AddedUpstream, _deployment: Deployment) -> Replica:
    """Connect to an upstream that is added: it repeats."""
    return Replica(name, ProbedEcho(), is_upstream=True, url=upstream.url, priority=upstream.priority)


def _reported(other_requests: int) -> LoadReports:
    reports = LoadReports(max_age_seconds=3600)
    reports.report(ReportedLoad(other_requests=other_requests, kv_usage=0.25 * other_requests))
    return reports


def upstream_deployment(name: str, *engines: Engine) -> Deployment:
    """Return a deployment with these engines as its upstreams, of which the first is chosen while it takes requests."""
    replicas = (
        Replica(
            f"{name}/{number}",
            engine,
            is_upstream=True,
            url=f"http://gpu{number}:8000",
            concurrency=64,
            load_reports=_reported(number),
        )
        for number, engine in enumerate(engines)
    )
    return Deployment(name=name, replicas=tuple(replicas), routing=RouterOptions(policy="first"))


class ConsoleClient:
    """A person with a browser without scripts: follows forms with their tokens."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.http = client

    async def get(self, path: str, **parameters: str | int) -> httpx.Response:
        """Load a page."""
        return await self.http.get(f"/console{path}", params=parameters)

    async def submit(self, page: str, action: str, **fields: str) -> httpx.Response:
        """Load a page, and send a form of it."""
        return await self.http.post(f"/console{action}", data={"form_token": await self.token(page), **fields})

    async def token(self, page: str) -> str:
        """Return the token in the forms of a page."""
        match = TOKEN.search((await self.get(page)).text)
        assert match is not None, "the page has no token"
        return match[1] or match[2]

    async def sign_in(self, key: str) -> httpx.Response:
        """Sign in with a key."""
        return await self.submit("/login", "/login", key=key)


@contextlib.asynccontextmanager
async def console_client(
    app: App, *, key: str | None = None, url: str = "http://localhost"
) -> AsyncGenerator[ConsoleClient]:
    """Start the app and open a client of it, signed in with a key if one is given."""
    async with running_app(app), another_client(app, key=key, url=url) as client:
        yield client


@contextlib.asynccontextmanager
async def another_client(
    app: App, *, key: str | None = None, url: str = "http://localhost"
) -> AsyncGenerator[ConsoleClient]:
    """Open a client of a running app."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=url) as client:
        person = ConsoleClient(client)
        if key is not None:
            response = await person.sign_in(key)
            assert response.status_code == 303, response.text
        yield person


class StartedServer(uvicorn.Server):
    """A server that says when it accepts connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_started = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_started.set()


async def ask(client: ConsoleClient, *, is_shown: bool = True, **fields: object) -> str:
    """Send a chat through the playground's route, wait until its request `is_shown`, and return its id."""
    headers = {"x-form-token": await client.token("/playground")}
    response = await client.http.post("/console/api/v1/chat/completions", json={**CHAT, **fields}, headers=headers)
    assert response.status_code == 200, response.text
    request_id = response.headers["x-request-id"]
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        while is_shown and (await client.get(f"/requests/{request_id}/charge")).status_code == 404:
            pass  # It is settled a moment after its end.
    return request_id


def plain(page: str) -> str:
    """Return what a person reads of a page."""
    return " ".join(re.sub("<[^>]*>", " ", page).split())


@contextlib.contextmanager
def served(app: App) -> Iterator[str]:
    """Serve the app on a port of this machine, in a thread, and yield its URL."""
    config = uvicorn.Config(app, port=0, log_level="critical", ws="none", loop="asyncio", lifespan="on")
    config.timeout_graceful_shutdown = 1
    server = StartedServer(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        assert server.is_started.wait(TEST_TIMEOUT_SECONDS)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        app.drain()
        server.should_exit = True
        thread.join(TEST_TIMEOUT_SECONDS)
