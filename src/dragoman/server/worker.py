"""An HTTP worker process: one ASGI app on the socket that its parent opened.

Started as `python -m dragoman.server.worker`, with its options in the environment. Prints `ready` on standard output
when it accepts connections.
On SIGTERM, or when its standard input is closed, it rejects new requests and exits when the running ones have ended.
A line on standard input holds new options, of which it takes over what a reload may change.
Heartbeats come from its event loop: a worker whose loop is blocked serves nobody.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Container
from pathlib import Path

import msgspec
import uvicorn

from dragoman.accounts.database.connections import Database
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.process.handle import ForkedLedgerHandle
from dragoman.core import logs
from dragoman.core.addresses import NO_ADDRESSES, AddressSet
from dragoman.core.child_process import HEARTBEAT_SECONDS, end_with_parent, send_heartbeat
from dragoman.core.process_options import read_options
from dragoman.core.user_paths import user_path
from dragoman.dialects.http.context import HttpOptions
from dragoman.engines.llama.weights.adapter_files import LocalAdapterStore
from dragoman.gateway.admission.recording import UNMETERED_ADMISSION, UnmeteredAdmission, UsageRecordingAdmission
from dragoman.gateway.auth.static_keys import StaticKeyAuthenticator
from dragoman.gateway.execution.body_store import DatabaseBodyStore
from dragoman.gateway.execution.response_store import DatabaseResponseStore
from dragoman.gateway.ledger_connection import AccountsOptions
from dragoman.gateway.remote_images import ImageFetcher
from dragoman.gateway.routing.adapters import RegistrationRules
from dragoman.gateway.routing.catalog import Catalog
from dragoman.jobs.service.queue import JobQueue
from dragoman.server.accounting import AccountingServices
from dragoman.server.accounts_location import DATABASE_VARIABLE, AccountsLocation, AccountsUnavailable
from dragoman.server.app import AppServices, LiveOptions, ReloadableApp
from dragoman.server.console import ShownSettings
from dragoman.server.http_server import HttpServer, bounded_protocol
from dragoman.server.image_settings import ImageSettings
from dragoman.server.metrics import SettingsState, count_as_one_process
from dragoman.server.origins import OriginPolicy
from dragoman.server.queue_options import WEBHOOK_SECRET_VARIABLE, queue_options, webhook_options
from dragoman.server.replicas import build_deployments, connect_added_upstream
from dragoman.server.response_options import REASONING_SECRET_VARIABLE, ResponsesSettings, reasoning_key
from dragoman.server.settings import Settings
from dragoman.server.tls import CertificateError, certificate_expiry, server_context
from dragoman.server.tracing import Tracing
from dragoman.server.tracing_variables import exports_traces
from dragoman.server.worker_options import RETIRE_LINE, WorkerOptions

_RECORD_TIMEOUT_SECONDS = 0.5
"""Time that a request without accounts waits for its record to be written."""

_READ_BYTES = 65_536

_DATABASE_ANSWER_SECONDS = 30.0
"""Time until a PostgreSQL server is taken for hung and its connection is closed. Requests wait less, as set."""

_log = logs.get_logger(__name__)


def main() -> int:
    """Serve until a signal to stop. Return the process's exit status."""
    end_with_parent()
    options = read_options(WorkerOptions)
    count_as_one_process()
    for descriptor in (options.listening_fd, options.wake_fd):
        os.set_inheritable(descriptor, False)  # Its own children would hold the port for as long as they live.
    settings = options.settings
    logs.configure(settings.log_level, settings.log_format)
    catalog = Catalog(build_deployments(options))
    accounts = _accounts_options(options)
    folder = user_path(settings.adapter_dir) if settings.adapter_dir else None
    tracing = Tracing.exporting() if exports_traces(os.environ) else None
    services = AppServices(
        catalog,
        options.metrics_directory,
        admission=_admission(None if options.requires_account_key else accounts),
        accounting=_accounting(options, accounts),
        adapter_store=LocalAdapterStore(
            folder,
            downloads=settings.allow_adapter_downloads,
            download_dir=Path(options.metrics_directory) / "adapters",
            max_bytes=settings.max_adapter_bytes,
        ),
        queue=_job_queue(settings, accounts),
        console_database=None if accounts is None else accounts.database,
        response_store=None if accounts is None else _response_store(accounts, settings.responses),
        body_store=None if accounts is None else DatabaseBodyStore(accounts.database, settings.console.body_rules),
        tracing=tracing,
        connect_upstream=connect_added_upstream,
        images=_image_fetcher(settings.images) if settings.images.fetch else None,
    )
    app = ReloadableApp(services, _live_options(options))
    config = uvicorn.Config(
        app if tracing is None else tracing.traced(app),
        interface="asgi3",  # uvicorn takes an app that is no coroutine function for one of ASGI 2.
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # uvicorn would trust any client on this machine. The settings name the trusted proxies.
        http=bounded_protocol(settings.http, _proxies(settings)),
        timeout_keep_alive=settings.http.keep_alive_seconds,
        lifespan="on",  # With "auto", a server would start even if its engines or accounts cannot be opened.
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
    )
    config.load()
    loop_factory = config.get_loop_factory()
    if accounts is not None:  # Behind all imports, which the two processes share, and before the first thread.
        ForkedLedgerHandle.fork(accounts.database)
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        server = HttpServer(config, app.drain, server_context(settings), settings.http.head_timeout_seconds)
        runner.run(_serve(server, app, options.listening_fd))
    if tracing is not None:
        tracing.flush()
    return 0


def _response_store(accounts: AccountsOptions, settings: ResponsesSettings) -> DatabaseResponseStore:
    return DatabaseResponseStore(
        accounts.database, retention_days=settings.retention_days, max_bytes=settings.max_stored_bytes
    )


def _image_fetcher(settings: ImageSettings) -> ImageFetcher:
    # Most servers fetch nothing, and the imports take a while.
    from dragoman.core.egress.urls import UrlRules
    from dragoman.gateway.image_fetching import HttpImageFetcher, ImageFetchOptions

    return HttpImageFetcher(
        ImageFetchOptions(
            rules=UrlRules(settings.fetch_allow_http, settings.fetch_allow_private_addresses, "images.fetch"),
            max_count=settings.max_count,
            max_bytes=settings.max_bytes,
            max_total_bytes=settings.fetch_max_bytes,
            timeout_seconds=settings.fetch_timeout_seconds,
        )
    )


def _live_options(options: WorkerOptions) -> LiveOptions:
    settings = options.settings
    return LiveOptions(
        http=_http_options(settings, _proxies(settings)),
        keys=StaticKeyAuthenticator(options.key_labels, options.key_groups, options.key_numbers),
        admin_keys=StaticKeyAuthenticator(options.admin_labels),
        hosts=settings.dialect_hosts,
        origin_policy=OriginPolicy(
            needs_key=bool(options.key_labels) or options.requires_account_key,
            listens_on=settings.host,
            hosts=(*settings.dialect_hosts, *settings.allowed_hosts),
            origins=settings.allowed_origins,
        ),
        registration_rules=RegistrationRules(
            allowed=allows_adapter_registration(settings, has_accounts=options.requires_account_key),
            max_adapters=settings.max_adapters_per_account,
            max_per_minute=settings.max_adapter_registrations_per_minute,
        ),
        ready_timeout_seconds=settings.supervision.ready_timeout_seconds,
        state=SettingsState(
            options.generation, None if settings.ssl_certfile is None else certificate_expiry(settings)
        ),
        vllm_metrics=settings.metrics.vllm_names,
        console=ShownSettings(settings, options.setting_origins) if settings.console.enabled else None,
    )


def _reload(line: bytes, app: ReloadableApp, server: HttpServer) -> None:
    """Serve with the options in a line of the parent, and reply `ok` or why they cannot be used.

    Every line has one reply: the parent counts them.
    """
    try:
        options = msgspec.json.decode(line, type=WorkerOptions)
        settings, live = options.settings, _live_options(options)
        server.reload(settings, _proxies(settings))  # Before the app: it fails if the certificate has just changed.
        logs.configure(settings.log_level, settings.log_format)
        app.reload(live)
    except (msgspec.DecodeError, CertificateError) as error:
        print(" ".join(str(error).split()), flush=True)
    except Exception:  # noqa: BLE001 - a defect fails the reload, and the parent must learn that
        _log.exception("reload_failed")
        print("a worker cannot use the settings, see its log", flush=True)
    else:
        print("ok", flush=True)


def _proxies(settings: Settings) -> Container[str]:
    return AddressSet.parse(settings.trusted_proxies) if settings.trusted_proxies else NO_ADDRESSES


def _http_options(settings: Settings, proxies: Container[str]) -> HttpOptions:
    return HttpOptions(
        max_body_bytes=settings.max_body_bytes,
        max_body_values=settings.max_body_values,
        keep_alive_seconds=settings.sse_keep_alive_seconds,
        trusted_proxies=proxies,
        v1_dialect=settings.v1_dialect,
        public_docs=settings.public_docs,
        root_path=settings.root_path or "",
        access_log=settings.access_log,
        reasoning_key=reasoning_key(os.environ.get(REASONING_SECRET_VARIABLE)),
        fetches_images=settings.images.fetch,
    )


async def _serve(server: HttpServer, app: ReloadableApp, listening_fd: int) -> None:
    loop = asyncio.get_running_loop()
    unfinished = b""

    def read_standard_input() -> None:
        nonlocal unfinished
        received = os.read(sys.stdin.fileno(), _READ_BYTES)
        if not received:
            loop.remove_reader(sys.stdin.fileno())
            server.should_exit = True
        *lines, unfinished = (unfinished + received).split(b"\n")
        for line in lines:
            if line + b"\n" == RETIRE_LINE:
                app.retire()
                server.retire()
            else:
                _reload(line, app, server)

    loop.add_reader(sys.stdin.fileno(), read_standard_input)
    os.set_blocking(sys.stdout.fileno(), False)
    heartbeats = asyncio.create_task(_send_heartbeats())
    try:
        await server.serve([socket.socket(fileno=listening_fd)])
    finally:
        heartbeats.cancel()


async def _send_heartbeats() -> None:
    while True:
        send_heartbeat()
        await asyncio.sleep(HEARTBEAT_SECONDS)


def _admission(accounts: AccountsOptions | None) -> UnmeteredAdmission:
    """The admission of a server without accounts."""
    if accounts is None:
        return UNMETERED_ADMISSION
    return UsageRecordingAdmission(msgspec.structs.replace(accounts, timeout_seconds=_RECORD_TIMEOUT_SECONDS))


def _accounting(options: WorkerOptions, accounts: AccountsOptions | None) -> AccountingServices | None:
    if accounts is None or not options.requires_account_key:
        return None
    limit = options.settings.accounts.max_stored_response_bytes
    return AccountingServices(accounts, max_stored_response_bytes=limit)


def allows_adapter_registration(settings: Settings, *, has_accounts: bool) -> bool:
    """Whether clients may register adapters: without accounts they may unless the settings say otherwise."""
    allowed = settings.allow_adapter_registration
    return not has_accounts if allowed is None else allowed


def _accounts_options(options: WorkerOptions) -> AccountsOptions | None:
    if options.journal_dir is None:
        return None
    location = AccountsLocation(os.environ[DATABASE_VARIABLE], Path(options.journal_dir))
    if not options.requires_account_key and not _prepare_usage_records(location):
        return None
    return AccountsOptions(
        database=Database(location.url, answer_seconds=_DATABASE_ANSWER_SECONDS),
        journals=location.journal_dir,
        hold_cap=options.settings.accounts.max_hold_tokens,
        timeout_seconds=options.settings.accounts.timeout_seconds,
        heartbeat_timeout_seconds=options.settings.supervision.heartbeat_timeout_seconds,
        transport=ForkedLedgerHandle,
    )


def _prepare_usage_records(location: AccountsLocation) -> bool:
    """Prepare the database of a server without accounts, which serves also if it cannot be used."""
    try:
        location.prepare()
    except AccountsUnavailable as error:
        _log.warning("usage_recording_disabled_at_start", reason=str(error))
        return False
    return True


def _job_queue(settings: Settings, accounts: AccountsOptions | None) -> JobQueue | None:
    if accounts is None:
        return None
    webhooks = webhook_options(settings.queue, os.environ.get(WEBHOOK_SECRET_VARIABLE))
    webhooks = msgspec.structs.replace(webhooks, root_path=settings.root_path or "")
    return JobQueue(accounts.database, queue_options(settings.queue), new_process_id(), webhooks)


if __name__ == "__main__":
    sys.exit(main())
