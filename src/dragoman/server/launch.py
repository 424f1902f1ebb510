"""`dragoman serve`: opens the socket, starts engine and workers, says what is served, and ends them in order."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console

from dragoman.engines.llama.gguf_files import ModelSourceError
from dragoman.engines.llama.options import EngineOptions
from dragoman.engines.llama.sources import ModelFile, resolve
from dragoman.server import logs
from dragoman.server.settings import Settings
from dragoman.server.supervisor import Child, ChildCommand, ChildFailed
from dragoman.server.worker import WorkerOptions

ECHO = "echo"
"""The model name that stands for the echo engine."""

_BACKLOG = 2048
_EXIT_UNUSABLE = 2

_SPIN_COUNT = "10000"
"""Rounds an OpenMP thread spins before it sleeps; benchmarks/README.md has the measurement."""


class _Unusable(Exception):
    """The server cannot start. One line for a person."""


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or Ctrl-C; returns the exit status: 0, or 2 with one line on standard error."""
    logs.configure(settings.log_level)
    try:
        model = None if settings.model == ECHO else resolve(settings.model, progress=sys.stderr.isatty())
        with (
            _listen(settings.host, settings.port) as listener,
            tempfile.TemporaryDirectory(prefix="dragoman-") as folder,
        ):
            asyncio.run(_Launch(settings, model, listener, Path(folder)).run())
    except (ModelSourceError, ChildFailed, _Unusable) as error:
        print(f"dragoman: {error}", file=sys.stderr)
        return _EXIT_UNUSABLE
    return 0


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        raise _Unusable(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with --host or --port"
        ) from error
    return listener


class _Launch:
    """One run of the server, in the parent process."""

    def __init__(self, settings: Settings, model: ModelFile | None, listener: socket.socket, folder: Path) -> None:
        """`model` None: the echo engine. `folder` holds the engine's socket and the workers' counts."""
        self._settings = settings
        self._model = model
        self._listener = listener
        self._folder = folder
        self._engine_socket = folder / "engine.sock"
        self._engines = [Child(self._engine_command(model))] if model else []
        self._workers = [Child(self._worker_command()) for _ in range(settings.workers)]

    async def run(self) -> None:
        """Start everything, wait for the signal to stop, stop everything. Raises ChildFailed."""
        told_to_stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_number, told_to_stop.set)
        try:
            await self._start(told_to_stop)
            await told_to_stop.wait()
        finally:
            await asyncio.gather(*(worker.stop(self._settings.drain_seconds) for worker in self._workers))
            await asyncio.gather(*(engine.stop() for engine in self._engines))

    async def _start(self, told_to_stop: asyncio.Event) -> None:
        """Engines and workers load side by side; being told to stop meanwhile ends the wait."""
        starting = asyncio.gather(*(child.start() for child in self._engines + self._workers))
        stopping = asyncio.create_task(told_to_stop.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if told_to_stop.is_set():
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
        name, aliases = self._names()
        also = f" (also called {', '.join(aliases)})" if aliases else ""
        body = f'{{"model": "{name}", "messages": [{{"role": "user", "content": "What is the capital of France?"}}]}}'
        console = Console(highlight=False, soft_wrap=True)
        console.print(f"[bold]dragoman[/bold] serves [bold]{name}[/bold]{also}\n  at [bold]{url}[/bold]")
        console.print(f"\nTry:\n  curl {url}/v1/chat/completions -d '{body}'\n", markup=False)

    def _names(self) -> tuple[str, tuple[str, ...]]:
        return (self._model.id, self._model.aliases) if self._model else (ECHO, ())

    def _worker_command(self) -> ChildCommand:
        name, aliases = self._names()
        options = WorkerOptions(
            settings=self._settings,
            listening_fd=self._listener.fileno(),
            metrics_directory=str(self._folder),
            model_name=name,
            model_aliases=aliases,
            engine_socket=str(self._engine_socket) if self._model else None,
        )
        # prometheus_client decides when it is imported whether processes count together.
        environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(self._folder)}
        return ChildCommand(
            "worker", _module("dragoman.server.worker", options), environment, [self._listener.fileno()]
        )

    def _engine_command(self, model: ModelFile) -> ChildCommand:
        engine = self._settings.engine
        options = EngineOptions(
            model_path=str(model.path),
            socket_path=str(self._engine_socket),
            context_cells=engine.context_cells,
            parallel=engine.parallel,
            threads=engine.threads or _cores(),
            step_tokens=engine.step_tokens,
            saved_tokens=engine.context_cells if engine.saved_tokens is None else engine.saved_tokens,
            max_waiting=self._settings.max_waiting,
            reproducible=engine.reproducible,
            library_path=engine.library,
            chat_template=model.chat_template,
        )
        # OpenMP's threads wait for each other many times a token, spinning for long by default. Whenever another
        # process wants a core, as the HTTP workers do, the one that spins keeps it from the one that is waited for.
        environment = {"GOMP_SPINCOUNT": _SPIN_COUNT, **os.environ}
        return ChildCommand("engine", _module("dragoman.engines.llama.process", options), environment)


def _module(name: str, options: msgspec.Struct) -> list[str]:
    return [sys.executable, "-m", name, msgspec.json.encode(options).decode()]


def _cores() -> int:
    """Cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
