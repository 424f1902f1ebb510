"""Asks a running server on this machine whether it is alive, as containers do every few seconds."""

import contextlib
import http.client
import socket
import ssl

from dragoman.core.user_paths import user_path
from dragoman.server.settings import Settings

_TIMEOUT_SECONDS = 5.0


def is_alive(settings: Settings) -> bool:
    """Whether `/health` at the address of the settings answers with status 200."""
    try:
        with contextlib.ExitStack() as opened:
            connection = opened.enter_context(_connect(settings))
            if settings.ssl_certfile is not None:
                connection = opened.enter_context(_encrypted(connection, settings))
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False


def _connect(settings: Settings) -> socket.socket:
    if settings.uds is None:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
        return socket.create_connection((host, settings.port), _TIMEOUT_SECONDS)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_TIMEOUT_SECONDS)
    try:
        connection.connect(str(user_path(settings.uds)))
    except OSError:
        connection.close()
        raise
    return connection


def _encrypted(connection: socket.socket, settings: Settings) -> ssl.SSLSocket:
    # Whoever listens here is asked whether it is alive, and gets no secret.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if settings.ssl_certfile is not None and settings.ssl_ca_certs is not None:
        keyfile = None if settings.ssl_keyfile is None else user_path(settings.ssl_keyfile)
        context.load_cert_chain(user_path(settings.ssl_certfile), keyfile)
    return context.wrap_socket(connection, server_hostname="localhost")
