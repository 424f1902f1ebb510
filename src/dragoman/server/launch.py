"""`dragoman serve`: opens the socket, starts engine and workers, says what is served, and ends them in order."""

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import structlog
from rich.console import Console

from dragoman.core.identifiers import key_digest
from dragoman.engines.llama.weights.gguf_files import ModelSourceError
from dragoman.engines.llama.weights.sources import ModelFile
from dragoman.engines.llama.wire.adapter_registry import registry_path, write_registry
from dragoman.engines.llama.wire.options import EngineOptions
from dragoman.jobs.webhooks.message import InvalidSecret
from dragoman.server import logs
from dragoman.server.accounts_location import (
    DATABASE_VARIABLE,
    AccountsLocation,
    AccountsUnavailable,
    accounts_location,
    default_location,
)
from dragoman.server.adapters import with_adapters
from dragoman.server.planning import DeploymentError, DeploymentPlan, plan_deployments, with_faster_weights
from dragoman.server.queueing import WEBHOOK_SECRET_VARIABLE, webhook_options
from dragoman.server.settings import AdminKeySettings, AdminSettings, Settings
from dragoman.server.supervisor import Child, ChildCommand, ChildFailed
from dragoman.server.worker import DeploymentOptions, WorkerOptions

_log = structlog.get_logger(__name__)

_BACKLOG = 2048

_MAX_WAKE_REQUESTS = 4096
"""Requests for sleeping models that are read at once."""

_EXIT_STARTUP_FAILED = 2

_SPIN_COUNT = "10000"
"""Rounds an OpenMP thread spins before it sleeps; benchmarks/README.md has the measurement."""


class _StartupError(Exception):
    """The server cannot start. One line for a person."""


def serve(settings: Settings, deprecated: Mapping[str, str]) -> int:
    """Serve until SIGTERM or Ctrl-C. Return the exit status: 0, or 2 after one line on standard error.

    `deprecated` are the old spellings of settings that were used → the current ones.
    """
    logs.configure(settings.log_level)
    if deprecated:
        _log.warning("deprecated_settings", renamed=dict(deprecated))
    try:
        _require_keys_unless_loopback(settings)
        _check_webhooks(settings)
        accounts = _prepare_accounts(settings)
        on_terminal = sys.stderr.isatty()
        plans = with_adapters(settings, plan_deployments(settings, progress=on_terminal), progress=on_terminal)
        plans = with_faster_weights(plans, settings, progress=on_terminal, report=_print_line)
        with (
            _listen(settings.host, settings.port) as listener,
            tempfile.TemporaryDirectory(prefix="dragoman-") as folder,
        ):
            asyncio.run(_ServerLauncher(settings, plans, accounts, listener, Path(folder)).run())
    except (ModelSourceError, ChildFailed, DeploymentError, AccountsUnavailable, _StartupError) as error:
        _print_line(str(error))
        return _EXIT_STARTUP_FAILED
    return 0


def _print_line(line: str) -> None:
    print(f"dragoman: {line}", file=sys.stderr)


def _require_keys_unless_loopback(settings: Settings) -> None:
    """Without keys, only this machine may reach the server, unless that was asked for."""
    if settings.keys or settings.accounts.database or settings.allow_unauthenticated or _is_loopback(settings.host):
        return
    raise _StartupError(
        f"whoever reaches {settings.host} could use the server, since there are no keys; add [[keys]] or [accounts] to "
        "the settings, listen on 127.0.0.1, or pass --allow-unauthenticated"
    )


def _check_webhooks(settings: Settings) -> None:
    try:
        webhook_options(settings.queue, settings.queue.webhook_secret)
    except InvalidSecret as error:
        raise _StartupError(f"queue.webhook_secret {error}") from None


def _prepare_accounts(settings: Settings) -> AccountsLocation | None:
    """The accounts, or the record of what is used without them, ready to be used; None: neither."""
    location = accounts_location(settings.accounts)
    if location is None:
        if settings.admin.keys:
            raise _StartupError(
                "[[admin.keys]] open the administration of accounts, and there are none; set [accounts]"
            )
        return _prepare_usage_database() if settings.record_usage else None
    if settings.keys:
        raise _StartupError(
            "[[keys]] and [accounts] are both set, and a key of the settings belongs to no account; make keys with "
            "dragoman keys create"
        )
    location.prepare()
    return location


def _prepare_usage_database() -> AccountsLocation | None:
    location = default_location()
    try:
        location.prepare()
    except AccountsUnavailable as error:
        _log.warning("usage_recording_disabled", reason=str(error))
        return None
    return location


def _without_secrets(settings: Settings) -> Settings:
    accounts = msgspec.structs.replace(settings.accounts, database=None)
    queue = msgspec.structs.replace(settings.queue, webhook_secret=None)
    return msgspec.structs.replace(settings, keys=(), accounts=accounts, admin=AdminSettings(), queue=queue)


def _admin_digest(entry: AdminKeySettings) -> str:
    return entry.sha256 or key_digest(entry.key or "")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        raise _StartupError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with --host or --port"
        ) from error
    return listener


class _ServerLauncher:
    """One run of the server, in the parent process."""

    def __init__(
        self,
        settings: Settings,
        plans: Sequence[DeploymentPlan],
        accounts: AccountsLocation | None,
        listener: socket.socket,
        folder: Path,
    ) -> None:
        """`folder` holds the engines' sockets and the workers' counts."""
        self._settings = settings
        self._plans = plans
        self._accounts = accounts
        self._listener = listener
        self._folder = folder
        for number, planned in enumerate(plans):
            if planned.adapters:
                write_registry(registry_path(self._engine_socket(number)), planned.adapters)
        self._wake_read_fd, self._wake_write_fd = os.pipe()
        self._engines = {
            number: Child(self._engine_command(number, planned.model))
            for number, planned in enumerate(plans)
            if planned.model
        }
        self._workers = [Child(self._worker_command()) for _ in range(settings.workers)]

    async def run(self) -> None:
        """Start everything, wait for the signal to stop, stop everything. Raises ChildFailed."""
        stop_requested = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_number, stop_requested.set)
        loop.add_reader(self._wake_read_fd, self._on_wake_request)
        try:
            await self._start(stop_requested)
            await stop_requested.wait()
        finally:
            await asyncio.gather(*(worker.stop(self._settings.drain_seconds) for worker in self._workers))
            await asyncio.gather(*(engine.stop() for engine in self._engines.values()))
            loop.remove_reader(self._wake_read_fd)
            os.close(self._wake_read_fd)
            os.close(self._wake_write_fd)

    def _on_wake_request(self) -> None:
        for number in os.read(self._wake_read_fd, _MAX_WAKE_REQUESTS):
            self._engines[number].wake()

    async def _start(self, stop_requested: asyncio.Event) -> None:
        """Engines and workers load side by side; being told to stop meanwhile ends the wait."""
        loading = []
        for number, engine in self._engines.items():
            if self._plans[number].load == "eager":
                loading.append(engine)
            else:
                engine.start_inactive()
        starting = asyncio.gather(*(child.start() for child in [*loading, *self._workers]))
        stopping = asyncio.create_task(stop_requested.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if stop_requested.is_set():
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError, ChildFailed):
                await starting
            return
        stopping.cancel()
        await starting
        self._announce()

    def _announce(self) -> None:
        host, port = self._listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        console = Console(highlight=False, soft_wrap=True)
        served = " and ".join(
            f"[bold]{planned.name}[/bold]{_alias_suffix(planned)}{_adapter_suffix(planned)}" for planned in self._plans
        )
        console.print(f"[bold]dragoman[/bold] serves {served}\n  at [bold]{url}[/bold]")
        question = '[{"role": "user", "content": "What is the capital of France?"}]'
        body = f'{{"model": "{self._plans[0].name}", "messages": {question}}}'
        key = "-H 'Authorization: Bearer KEY' " if self._settings.keys or self._settings.accounts.database else ""
        console.print(f"\nTry:\n  curl {url}/v1/chat/completions {key}-d '{body}'\n", markup=False)

    def _worker_command(self) -> ChildCommand:
        options = WorkerOptions(
            settings=_without_secrets(self._settings),
            key_labels={key_digest(entry.key): entry.name for entry in self._settings.keys},
            admin_labels={_admin_digest(entry): entry.name for entry in self._settings.admin.keys},
            listening_fd=self._listener.fileno(),
            metrics_directory=str(self._folder),
            deployments=tuple(
                DeploymentOptions(
                    planned.name,
                    planned.aliases,
                    planned.dialects,
                    str(self._engine_socket(number)) if planned.model else None,
                    planned.on_demand,
                    planned.architecture,
                )
                for number, planned in enumerate(self._plans)
            ),
            wake_fd=self._wake_write_fd,
            journals=str(self._accounts.journals) if self._accounts else None,
            requires_account_key=self._settings.accounts.database is not None,
        )
        # prometheus_client decides when it is imported whether processes count together.
        environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(self._folder)}
        if self._accounts is not None:
            environment[DATABASE_VARIABLE] = self._accounts.url
        if self._settings.queue.webhook_secret is not None:
            environment[WEBHOOK_SECRET_VARIABLE] = self._settings.queue.webhook_secret
        return ChildCommand(
            "worker",
            _module_command("dragoman.server.worker", options),
            environment,
            [self._listener.fileno(), self._wake_write_fd],
        )

    def _engine_socket(self, number: int) -> Path:
        return self._folder / f"engine-{number}.sock"

    def _engine_command(self, number: int, model: ModelFile) -> ChildCommand:
        planned = self._plans[number]
        engine = self._settings.engine
        options = EngineOptions(
            model_path=str(model.path),
            socket_path=str(self._engine_socket(number)),
            context_cells=engine.kv_cache_tokens,
            parallel=engine.max_sequences,
            threads=engine.threads or _available_cores(),
            step_tokens=engine.max_batched_tokens,
            saved_tokens=engine.kv_cache_tokens if engine.host_cache_tokens is None else engine.host_cache_tokens,
            max_waiting=self._settings.max_waiting_requests,
            max_adapters=self._settings.max_adapters,
            unload_idle_seconds=planned.unload_idle_seconds,
            reproducible=engine.reproducible,
            library=engine.llama_library,
            chat_template=model.chat_template,
        )
        # OpenMP's threads wait for each other many times a token, spinning for long by default. Whenever another
        # process wants a core, as the HTTP workers do, the one that spins keeps it from the one that is waited for.
        environment = {"GOMP_SPINCOUNT": _SPIN_COUNT, **os.environ}
        return ChildCommand(
            f"engine {planned.name}",
            _module_command("dragoman.engines.llama.process", options),
            environment,
            on_demand=planned.on_demand,
        )


def _alias_suffix(planned: DeploymentPlan) -> str:
    return f" (also called {', '.join(planned.aliases)})" if planned.aliases else ""


def _adapter_suffix(planned: DeploymentPlan) -> str:
    names = ", ".join(record.adapter.name for record in planned.adapters)
    return f" with the adapters {names}" if names else ""


def _module_command(name: str, options: msgspec.Struct) -> list[str]:
    return [sys.executable, "-m", name, msgspec.json.encode(options).decode()]


def _available_cores() -> int:
    """Cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
