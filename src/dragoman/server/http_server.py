"""The HTTP server of one worker: uvicorn on the socket that the parent has opened, with TLS if it is set."""

import asyncio
import socket
import ssl
import sys
from collections.abc import Callable, Container
from functools import partial
from types import FrameType
from typing import cast

import uvicorn

from dragoman.core.garbage_collection import freeze_startup_objects
from dragoman.server.http_protocol import change_bounds
from dragoman.server.settings import Settings
from dragoman.server.tls import load_certificate

_STARTUP_FAILED = 3


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

    def reload(self, settings: Settings, trusted_proxies: Container[str]) -> None:
        """Use the settings for new connections. Raises CertificateError, and then changes nothing."""
        if self._tls is not None and settings.ssl_certfile is not None:
            load_certificate(self._tls, settings.ssl_certfile, settings.ssl_keyfile)
        change_bounds(self.config.http_protocol_class, settings.http, trusted_proxies)
        self.config.timeout_keep_alive = settings.http.keep_alive_seconds
        self.config.timeout_graceful_shutdown = max(1, round(settings.drain_seconds))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._drain()
        super().handle_exit(sig, frame)
