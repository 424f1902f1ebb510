"""`dragoman serve`: checks the settings, plans the deployments, opens the socket and runs the processes."""

import asyncio
import contextlib
import functools
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from dragoman.core import logs
from dragoman.engines.llama.weights.gguf_files import ModelSourceError
from dragoman.engines.llama.wire.adapter_registry import registry_path, write_registry
from dragoman.engines.llama.wire.start_failure import EngineStartFailure, start_failure_path, write_start_failure
from dragoman.server.accounts_location import AccountsLocation, AccountsUnavailable
from dragoman.server.announcement import announce_server
from dragoman.server.child_commands import (
    KeyNumbers,
    NumberedEngine,
    ServerFiles,
    engine_commands,
    numbered_engines,
    worker_command,
)
from dragoman.server.control import (
    ControlledServer,
    ModelAction,
    ModelChangeRefused,
    TakeOverFailed,
    control_socket,
    receive_listener,
    request_retirement,
    server_process,
)
from dragoman.server.deployment_checks import DeploymentError
from dragoman.server.first_process import end_at_sigterm
from dragoman.server.listening import listen, take_activated_socket, with_address_of
from dragoman.server.planning import DeploymentPlan, plan_server
from dragoman.server.reloading import Reloader, ReloadRefused
from dragoman.server.runtime_folder import RuntimeFolder, RuntimeFolderError, folders_in_use
from dragoman.server.server_processes import ServerProcesses
from dragoman.server.settings import Settings
from dragoman.server.start_checks import (
    StartupError,
    check_settings,
    prepare_accounts,
    usage_records_location,
)
from dragoman.server.supervisor import ChildCommand, ChildFailed, StartFailure
from dragoman.server.systemd import ServiceManager
from dragoman.server.tracing_variables import TracingUnavailable, exports_traces

_log = logs.get_logger(__name__)

_EXIT_STARTUP_FAILED = 2


class _Listening(NamedTuple):
    """The socket of the server, and what becomes of it."""

    listener: socket.socket
    predecessor: Path | None
    """The runtime folder of the server that this one takes over from."""
    handed_over: threading.Event
    """Set when another server has taken over from this one."""


def serve(
    settings: Settings,
    deprecated: Mapping[str, str],
    read: Callable[[], Settings] | None = None,
    take_over: int | None = None,
    *,
    origins: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """Serve until SIGTERM or Ctrl-C. Return the exit status: 0, or 2 after one line on standard error.

    `deprecated` are the old spellings of settings that were used → the current ones. `read` reads the settings again,
    for reloads; None: they stay what they are. `take_over` is the process of a server whose socket is used, and which
    is stopped once this one is ready. `origins` are keys of settings → where they were set, for the console.
    """
    end_at_sigterm(os.getpid())  # A model may be downloaded before the processes are started.
    read = read or (lambda: settings)
    logs.configure(settings.log_level, settings.log_format)
    if deprecated:
        _log.warning("deprecated_settings", renamed=dict(deprecated))
    try:
        predecessor = None if take_over is None else _folder_of(take_over)
        given = take_activated_socket(os.environ) if predecessor is None else receive_listener(predecessor)
        if given is not None:
            settings = with_address_of(given, settings)
            read = functools.partial(_read_with_address, given, read)
        check_settings(settings)
        exports_traces(os.environ)
        accounts = prepare_accounts(settings)
        plans = plan_server(settings, progress=sys.stderr.isatty(), report=_print_line)
        handed_over = threading.Event()
        with given or listen(settings, handed_over.is_set) as listener:
            _run(settings, plans, accounts, _Listening(listener, predecessor, handed_over), read, origins=origins)
    except (
        *(ModelSourceError, ChildFailed, DeploymentError),
        *(AccountsUnavailable, StartupError, RuntimeFolderError, TakeOverFailed, TracingUnavailable),
    ) as error:
        _print_line(str(error))
        return _EXIT_STARTUP_FAILED
    return 0


def _run(
    settings: Settings,
    plans: Sequence[DeploymentPlan],
    accounts: AccountsLocation | None,
    listening: _Listening,
    read: Callable[[], Settings],
    *,
    origins: Mapping[str, str],
) -> None:
    manager = ServiceManager.take(os.environ)
    with (
        RuntimeFolder.create() as folder,
        _pipe() as (wake_read_fd, wake_write_fd),
    ):
        files = ServerFiles(listening.listener, folder.path, wake_write_fd)
        engines = numbered_engines(plans)
        for engine in engines:
            if engine.plan.adapters:
                write_registry(registry_path(files.engine_socket(engine.number)), engine.plan.adapters)
        numbers = KeyNumbers()
        location = accounts or usage_records_location(settings)

        def worker(settings: Settings, generation: int) -> ChildCommand:
            return worker_command(
                settings, plans, location, files, numbers=numbers, generation=generation, origins=origins
            )

        processes = ServerProcesses(
            engine_commands(settings, plans, files, accounts=accounts, numbers=numbers),
            worker(settings, 1),
            worker_count=settings.workers,
            lazy={engine.number for engine in engines if engine.plan.load == "lazy"},
            wake_fd=wake_read_fd,
            drain_seconds=settings.drain_seconds,
            report=functools.partial(_report_start_failure, {engine.number: engine.name for engine in engines}, files),
            restore_folder=functools.partial(_restore_folder, folder),
        )

        def announce() -> None:
            announce_server(settings, plans, listening.listener)
            manager.report_ready()
            if listening.predecessor is not None:
                _retire(listening.predecessor)

        def retire() -> None:
            listening.handed_over.set()
            processes.retire()

        async def apply(settings: Settings, generation: int) -> list[str]:
            logs.configure(settings.log_level, settings.log_format)
            return await processes.reload(worker(settings, generation), settings.drain_seconds)

        reloader = Reloader(settings, read, apply)
        change_model = functools.partial(_change_model, processes, engines)
        controlled = ControlledServer(reloader, listening.listener, retire, change_model)
        asyncio.run(_supervise(processes, manager, controlled, folder.path, announce))


def _change_model(
    processes: ServerProcesses, engines: Sequence[NumberedEngine], action: ModelAction, model: str
) -> None:
    """Load or unload the engines of a deployment. Raises ModelChangeRefused."""
    chosen = [engine for engine in engines if engine.name == model]
    if not chosen:
        raise ModelChangeRefused(f"no engine of this machine serves {model!r}")
    if action == "load":
        processes.load([engine.number for engine in chosen])
    elif not all(engine.plan.on_demand for engine in chosen):
        raise ModelChangeRefused(f'{model} stays loaded: set load = "lazy" or unload_idle_seconds for it')
    else:
        processes.unload([engine.number for engine in chosen])


async def _supervise(
    processes: ServerProcesses,
    manager: ServiceManager,
    controlled: ControlledServer,
    folder: Path,
    on_ready: Callable[[], None],
) -> None:
    hung_up = asyncio.Event()

    async def reload_at_hangup() -> None:
        while await hung_up.wait():
            hung_up.clear()
            manager.report_reloading()
            with contextlib.suppress(ReloadRefused):  # It is logged.
                await controlled.reloader.reload()
            manager.report_ready()

    def stop_accepting() -> None:
        # Workers do so too; in a socket that stays open here, connections would wait that nobody accepts.
        controlled.listener.close()
        manager.report_stopping()

    async with manager.watched(), control_socket(folder, controlled):
        reloading = asyncio.create_task(reload_at_hangup())
        try:
            await processes.run(on_ready=on_ready, on_stop=stop_accepting, on_hangup=hung_up.set)
        finally:
            reloading.cancel()


def _folder_of(process: int) -> Path:
    """Return the runtime folder of a server of this user. Raises TakeOverFailed."""
    for folder in folders_in_use():
        if server_process(folder) == process:
            return folder
    raise TakeOverFailed(f"process {process} is no server of this user")


def _retire(predecessor: Path) -> None:
    try:
        request_retirement(predecessor)
    except OSError as error:
        _log.warning("predecessor_not_stopped", reason=str(error))


def _read_with_address(listener: socket.socket, read: Callable[[], Settings]) -> Settings:
    return with_address_of(listener, read())


def _report_start_failure(
    names: Mapping[int, str], files: ServerFiles, number: int, failure: StartFailure | None
) -> None:
    """Write or remove the file that says why an engine does not run."""
    written = None
    if failure is not None:
        written = EngineStartFailure(
            model=names[number],
            reason=failure.reason,
            attempts=failure.attempts,
            next_attempt_at=None if failure.retry_seconds is None else time.monotonic() + failure.retry_seconds,
        )
    write_start_failure(start_failure_path(files.engine_socket(number)), written)


def _restore_folder(folder: RuntimeFolder) -> None:
    """Make a removed folder again; the engines put their files back themselves."""
    try:
        if folder.restore():
            _log.error("runtime_folder_restored", path=str(folder.path), reason="it was removed while the server runs")
    except OSError as error:
        _log.error("runtime_folder_missing", path=str(folder.path), reason=error.strerror)


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    read_fd, write_fd = os.pipe()
    try:
        yield read_fd, write_fd
    finally:
        os.close(read_fd)
        os.close(write_fd)


def _print_line(line: str) -> None:
    print(f"dragoman: {line}", file=sys.stderr)
