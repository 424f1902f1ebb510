"""The commands that start a server's child processes: engines and HTTP workers."""

import functools
import itertools
import os
import secrets
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from dragoman.core.context import key_digest
from dragoman.core.process_options import options_environment
from dragoman.engines.llama.wire.options import EngineOptions, SavedPrefixOptions
from dragoman.gateway.auth.static_keys import StaticKeyAuthenticator
from dragoman.server.accounts_location import DATABASE_VARIABLE, AccountsLocation, AccountsUnavailable, data_folder
from dragoman.server.engine_plans import EchoPlan, EnginePlan, LlamaPlan, UpstreamPlan
from dragoman.server.planning import DeploymentPlan
from dragoman.server.queue_options import WEBHOOK_SECRET_VARIABLE
from dragoman.server.response_options import REASONING_SECRET_VARIABLE
from dragoman.server.settings import AdminSettings, EngineSettings, Settings
from dragoman.server.supervisor import ChildCommand
from dragoman.server.worker_options import (
    DeploymentOptions,
    EchoOptions,
    LlamaOptions,
    ReplicaOptions,
    UpstreamOptions,
    WorkerOptions,
)

SPIN_COUNT = "100000"
"""Iterations for which an OpenMP thread spins before it sleeps. benchmarks/README.md has the measurement."""

_MAX_WORKER_RETRY_SECONDS = 10.0
"""The longest pause between two starts of a worker that fail: its database may be back at any moment."""


class ServerFiles(NamedTuple):
    """Files that the processes of one server share."""

    listener: socket.socket
    folder: Path
    """Holds the engines' sockets and the workers' metrics."""
    wake_fd: int
    """Workers write the numbers of engines here that must be started."""

    def engine_socket(self, number: int) -> Path:
        """Return the path of an engine's socket."""
        return self.folder / f"engine-{number}.sock"


class NumberedEngine(NamedTuple):
    """One of the engines that have a process."""

    number: int
    """Counted over the replicas of all deployments."""
    name: str
    """Of its deployment."""
    plan: LlamaPlan


def numbered_engines(plans: Sequence[DeploymentPlan]) -> list[NumberedEngine]:
    """Return the engines of all plans that have a process."""
    engines = enumerate((deployment.name, engine) for deployment in plans for engine in deployment.engines)
    return [NumberedEngine(number, name, plan) for number, (name, plan) in engines if isinstance(plan, LlamaPlan)]


def engine_commands(
    settings: Settings,
    plans: Sequence[DeploymentPlan],
    files: ServerFiles,
    *,
    accounts: AccountsLocation | None = None,
    numbers: "KeyNumbers | None" = None,
) -> dict[int, ChildCommand]:
    """Return the command of each engine process, by its number.

    Raises AccountsUnavailable if there is no data directory for what they save.
    """
    # OpenMP's threads wait for each other many times a token, and spin for long by default. If another process needs
    # a core, as HTTP workers do, a spinning thread keeps it from the thread that the others wait for.
    environment = {"GOMP_SPINCOUNT": SPIN_COUNT, **os.environ}
    return {
        number: ChildCommand(
            name=f"engine {name}",
            # The path is there for people who look at processes; the options have it too.
            arguments=[*_module_arguments("dragoman.engines.llama.process"), str(plan.model.path)],
            environment=environment
            | options_environment(
                _engine_options(
                    settings,
                    plan,
                    files.engine_socket(number),
                    _saved_prefix_options(settings, plan, accounts, numbers or KeyNumbers()),
                )
            ),
            on_demand=plan.on_demand,
            heartbeat_timeout_seconds=settings.supervision.heartbeat_timeout_seconds,
            max_retry_seconds=settings.supervision.max_retry_seconds,
        )
        for number, name, plan in numbered_engines(plans)
    }


class KeyNumbers:
    """Numbers of the settings' keys, which a key keeps when others are added and removed."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def of(self, digests: Iterable[str]) -> dict[str, int]:
        """Return the numbers of these keys, and number new ones."""
        return {digest: self._numbers.setdefault(digest, len(self._numbers) + 1) for digest in digests}


def worker_command(
    settings: Settings,
    plans: Sequence[DeploymentPlan],
    accounts: AccountsLocation | None,
    files: ServerFiles,
    *,
    numbers: KeyNumbers | None = None,
    generation: int = 1,
    origins: Mapping[str, str] = MappingProxyType({}),
) -> ChildCommand:
    """Return the command of an HTTP worker. All workers have the same, and get another one with a reload."""
    key_labels = {key_digest(entry.key): entry.name for entry in settings.client_keys}
    options = WorkerOptions(
        settings=_without_secrets(settings),
        setting_origins=dict(origins),
        key_labels=key_labels,
        key_numbers=None if numbers is None else numbers.of(key_labels),
        generation=generation,
        key_groups={key_digest(entry.key): entry.group for entry in settings.client_keys if entry.group is not None},
        admin_labels={entry.digest: entry.name for entry in settings.admin.keys},
        listening_fd=files.listener.fileno(),
        metrics_directory=str(files.folder),
        deployments=_deployment_options(plans, files),
        wake_fd=files.wake_fd,
        journal_dir=str(accounts.journal_dir) if accounts else None,
        requires_account_key=settings.accounts.database is not None,
    )
    return ChildCommand(
        name="worker",
        arguments=_module_arguments("dragoman.server.worker"),
        environment={**_worker_environment(settings, accounts, files), **options_environment(options)},
        inherited_fds=[files.listener.fileno(), files.wake_fd],
        heartbeat_timeout_seconds=settings.supervision.heartbeat_timeout_seconds,
        max_retry_seconds=_MAX_WORKER_RETRY_SECONDS,
        group_arguments=_module_arguments("dragoman.server.worker_launcher"),
    )


def _engine_options(
    settings: Settings, plan: LlamaPlan, socket_path: Path, saved_prefixes: SavedPrefixOptions | None
) -> EngineOptions:
    engine = plan.engine
    return EngineOptions(
        model_path=str(plan.model.path),
        socket_path=str(socket_path),
        kv_cache_tokens=engine.kv_cache_tokens,
        kv_cache_partitions=engine.kv_cache_partitions,
        max_sequences=engine.max_sequences,
        threads=engine.threads or _available_cores(),
        max_batched_tokens=engine.max_batched_tokens,
        max_draft_tokens=engine.max_draft_tokens if engine.speculation == "auto" else 0,
        host_cache_tokens=_host_cache_tokens(engine),
        max_waiting=settings.max_waiting_requests,
        max_adapters=settings.max_adapters,
        step_timeout_seconds=engine.step_timeout_seconds,
        max_adapters_per_owner=settings.max_adapters_per_account,
        unload_idle_seconds=plan.unload_idle_seconds,
        mmproj_path=None if plan.mmproj is None else str(plan.mmproj),
        reproducible=engine.reproducible,
        library=engine.llama_library,
        chat_template=plan.model.chat_template,
        tool_format=plan.tool_format,
        shared_prefixes=plan.shared_prefixes,
        saved_prefixes=saved_prefixes,
        kind=plan.kind,
        dimensions=plan.dimensions,
    )


def _saved_prefix_options(
    settings: Settings, plan: LlamaPlan, accounts: AccountsLocation | None, numbers: KeyNumbers
) -> SavedPrefixOptions | None:
    """Return where and for whom an engine saves prefixes. None: it saves none. Raises AccountsUnavailable."""
    engine = plan.engine
    if not engine.max_saved_prefix_bytes or plan.kind != "generation":
        return None
    return SavedPrefixOptions(
        folder=str(saved_prefix_folder(engine)),
        max_bytes=engine.max_saved_prefix_bytes,
        owners=_lasting_owners(settings, numbers),
        accounts="" if accounts is None else accounts.database_digest,
    )


def saved_prefix_folder(engine: EngineSettings) -> Path:
    """Return the directory of saved prefixes. Raises AccountsUnavailable if there is no data directory."""
    folder = data_folder() / "prefixes" if engine.saved_prefix_dir is None else Path(engine.saved_prefix_dir)
    try:
        return folder.expanduser().absolute()
    except RuntimeError as error:
        raise AccountsUnavailable(f"engine.saved_prefix_dir: {error}") from None


def _lasting_owners(settings: Settings, numbers: KeyNumbers) -> dict[str, str]:
    """Return the owners of the settings' keys, by a name that no other key has in another start of the server.

    A key that is added by a reload has none before the next start.
    """
    if settings.accounts.database is not None:
        return {}
    groups = {key_digest(entry.key): entry.group for entry in settings.client_keys if entry.group is not None}
    digests = [key_digest(entry.key) for entry in settings.client_keys]
    keys = StaticKeyAuthenticator(digests, groups, numbers.of(digests))
    names = {digest: keys.owner_of_key(digest) for digest in digests}
    lasting = {name: name if digest in groups else f"key {key_digest(digest)[:16]}" for digest, name in names.items()}
    return lasting or {"": ""}


def _deployment_options(plans: Sequence[DeploymentPlan], files: ServerFiles) -> tuple[DeploymentOptions, ...]:
    numbers = itertools.count()
    return tuple(
        DeploymentOptions(
            name=plan.name,
            aliases=plan.aliases,
            dialects=plan.dialects,
            engines=tuple(_replica_options(engine, next(numbers), files) for engine in plan.engines),
            routing=plan.routing,
            attempts=plan.attempts,
            fallbacks=plan.fallbacks,
            context_fallbacks=plan.context_fallbacks,
        )
        for plan in plans
    )


def _replica_options(plan: EnginePlan, number: int, files: ServerFiles) -> ReplicaOptions:
    match plan:
        case EchoPlan():
            return EchoOptions(echo=plan.echo, tool_format=plan.tool_format)
        case UpstreamPlan():
            return UpstreamOptions(upstream=plan.upstream, model=plan.model, kind=plan.kind)
        case LlamaPlan():
            return LlamaOptions(
                socket=str(files.engine_socket(number)),
                wake_number=number if plan.on_demand else None,
                architecture=plan.architecture,
                event_timeout_seconds=plan.engine.event_timeout_seconds,
                reply_timeout_seconds=plan.engine.reply_timeout_seconds,
                kind=plan.kind,
                images=plan.images,
                cache_tokens=plan.engine.kv_cache_tokens + _host_cache_tokens(plan.engine),
            )


def _host_cache_tokens(engine: EngineSettings) -> int:
    return engine.kv_cache_tokens if engine.host_cache_tokens is None else engine.host_cache_tokens


def _worker_environment(settings: Settings, accounts: AccountsLocation | None, files: ServerFiles) -> Mapping[str, str]:
    # prometheus_client reads this when it is imported: with it, the processes count together.
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(files.folder)}
    if accounts is not None:
        environment[DATABASE_VARIABLE] = accounts.url
    if settings.queue.webhook_secret is not None:
        environment[WEBHOOK_SECRET_VARIABLE] = settings.queue.webhook_secret
    secret = settings.responses.reasoning_secret
    environment[REASONING_SECRET_VARIABLE] = _random_secret() if secret is None else secret
    return environment


@functools.cache
def _random_secret() -> str:
    """Return a secret that workers have in common which are started one after the other."""
    return secrets.token_hex()


def _without_secrets(settings: Settings) -> Settings:
    accounts = msgspec.structs.replace(settings.accounts, database=None)
    queue = msgspec.structs.replace(settings.queue, webhook_secret=None)
    responses = msgspec.structs.replace(settings.responses, reasoning_secret=None)
    return msgspec.structs.replace(
        settings,
        deployments=(),
        api_key=None,
        keys=(),
        accounts=accounts,
        admin=AdminSettings(),
        queue=queue,
        responses=responses,
    )


def _module_arguments(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def _available_cores() -> int:
    """Return how many cores this process may use. In a container that is less than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
