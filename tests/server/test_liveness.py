"""Asking a server on this machine whether it is alive."""

import socket
import threading
from pathlib import Path

import msgspec
import pytest

from dragoman.server.listening import listen
from dragoman.server.liveness import is_alive
from dragoman.server.settings import Settings
from dragoman.server.tls import server_context
from tests.support.certificates import make_certificate
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


def answer_once(listener: socket.socket, settings: Settings) -> None:
    context = server_context(settings)
    assert context is not None
    connection, _ = listener.accept()
    with context.wrap_socket(connection, server_side=True) as encrypted:
        encrypted.recv(1024)
        encrypted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def test_certificates_below_the_home_directory_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    certificate = make_certificate(tmp_path, "server")
    cert, key = (f"~/{Path(path).relative_to(tmp_path)}" for path in (certificate.certfile, certificate.keyfile))
    settings = Settings(port=0, ssl_certfile=cert, ssl_keyfile=key, ssl_ca_certs=cert)
    with listen(settings) as listener:
        serving = threading.Thread(target=answer_once, args=(listener, settings))
        serving.start()
        assert is_alive(msgspec.structs.replace(settings, port=listener.getsockname()[1]))
        serving.join(TEST_TIMEOUT_SECONDS)
