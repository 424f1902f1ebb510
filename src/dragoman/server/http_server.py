"""The HTTP server of one worker: uvicorn on the socket that the parent has opened, with TLS if it is set."""

import asyncio
import contextlib
import resource
import socket
import ssl
import sys
from collections.abc import Callable, Container
from functools import partial
from types import FrameType
from typing import cast

import uvicorn

from dragoman.core import logs
from dragoman.core.garbage_collection import freeze_startup_objects
from dragoman.dialects.http.generation_response import SERVER_STOPS
from dragoman.server.http_protocol import BoundedHttpProtocol, OpenConnections
from dragoman.server.settings import HttpSettings, Settings
from dragoman.server.tls import load_certificate

RESERVED_DESCRIPTORS = 128
"""File descriptors kept for everything that is not a client's connection: engines, databases, journals."""

_STARTUP_FAILED = 3
_LAST_ERRORS_SECONDS = 1
"""For the errors of requests that are cut off."""

_RETIREMENT_PAUSE_SECONDS = 0.1

_log = logs.get_logger(__name__)


class HttpServer(uvicorn.Server):
    """uvicorn that prints `ready`, and drains the app when it must stop."""

    def __init__(
        self, config: uvicorn.Config, drain: Callable[[], None], tls: ssl.SSLContext | None, handshake_seconds: float
    ) -> None:
        """A client has `handshake_seconds` for TLS: until then, its connection is not counted."""
        super().__init__(config)
        self._drain = drain
        self._tls = tls
        self._handshake_seconds = None if tls is None else handshake_seconds
        self._retirement: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app and accept connections. Exits if the app cannot start.

        uvicorn's own has no time limit for TLS and expects no Unix sockets.
        """
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(_STARTUP_FAILED)
        self.servers = [await self._accept(listener) for listener in sockets or ()]
        self.started = True
        freeze_startup_objects()
        print("ready", flush=True)

    async def _accept(self, listener: socket.socket) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        make_protocol = partial(
            cast("Callable[..., asyncio.Protocol]", self.config.http_protocol_class),
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        create = loop.create_unix_server if listener.family == socket.AF_UNIX else loop.create_server
        return await create(
            make_protocol,
            sock=listener,
            backlog=self.config.backlog,
            ssl=self._tls,
            ssl_handshake_timeout=self._handshake_seconds,
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let running requests end for the time that is set, and then end them with errors of their own.

        uvicorn's own would cut their connections, and log a traceback for each.
        """
        seconds = self.config.timeout_graceful_shutdown or 0
        self.config.timeout_graceful_shutdown = seconds + _LAST_ERRORS_SECONDS
        timer = asyncio.get_running_loop().call_later(seconds, self._cut_off)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()

    def _cut_off(self) -> None:
        if tasks := self.server_state.tasks:
            _log.warning("requests_cut_off", requests=len(tasks), reason="drain_seconds are over")
        for task in tasks:
            task.cancel(SERVER_STOPS)

    def reload(self, settings: Settings, trusted_proxies: Container[str]) -> None:
        """Use the settings for new connections. Raises CertificateError, and then changes nothing."""
        if self._tls is not None and settings.ssl_certfile is not None:
            load_certificate(self._tls, settings.ssl_certfile, settings.ssl_keyfile)
        change_bounds(self.config.http_protocol_class, settings.http, trusted_proxies)
        self.config.timeout_keep_alive = settings.http.keep_alive_seconds
        self.config.timeout_graceful_shutdown = max(1, round(settings.drain_seconds))

    def retire(self) -> None:
        """Accept no connection any more, close each after its response or when it is idle, and then exit.

        Another process accepts on the same socket. What is still open after the time for running requests is cut off.
        """
        for server in self.servers:
            server.close()
        retire_connections(self.config.http_protocol_class)
        for connection in self.server_state.connections:
            if isinstance(connection, BoundedHttpProtocol):
                connection.close_if_idle()
        self._retirement = asyncio.create_task(self._exit_without_connections())

    async def _exit_without_connections(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                while self.server_state.connections:  # noqa: ASYNC110 - uvicorn has no event for that
                    await asyncio.sleep(_RETIREMENT_PAUSE_SECONDS)
        self._drain()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Drain the app, and end. uvicorn's own raises the signal again then, and nothing behind the server is done."""
        self._drain()
        self.should_exit = True


def affordable_connections(wanted: int) -> int:
    """Lower `wanted` to what the process's file descriptors allow, and log that."""
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft_limit == resource.RLIM_INFINITY:
        return wanted
    affordable = max(1, soft_limit - RESERVED_DESCRIPTORS)
    if affordable < wanted:
        _log.warning("connection_limit_lowered", configured=wanted, connections=affordable)
    return min(wanted, affordable)


def bounded_protocol(settings: HttpSettings, trusted_proxies: Container[str]) -> type[BoundedHttpProtocol]:
    """Make the protocol class that one worker gives to uvicorn."""

    class WorkerProtocol(BoundedHttpProtocol):
        """The protocol of one worker."""

    WorkerProtocol.settings = settings
    WorkerProtocol.open_connections = OpenConnections(
        affordable_connections(settings.max_connections), settings.max_connections_per_address, trusted_proxies
    )
    return WorkerProtocol


def change_bounds(protocol: type[asyncio.Protocol], settings: HttpSettings, trusted_proxies: Container[str]) -> None:
    """Give connections that are made from now on other bounds. `protocol` was made by bounded_protocol."""
    assert issubclass(protocol, BoundedHttpProtocol)
    protocol.settings = settings
    protocol.open_connections.change_limits(
        affordable_connections(settings.max_connections), settings.max_connections_per_address, trusted_proxies
    )


def retire_connections(protocol: type[asyncio.Protocol]) -> None:
    """Close connections after the response to their next request. `protocol` was made by bounded_protocol."""
    assert issubclass(protocol, BoundedHttpProtocol)
    protocol.is_retiring = True
