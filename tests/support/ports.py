"""Ports for processes that choose none themselves."""

import contextlib
import random
import socket

_PORTS = range(20_000, 32_000)
"""Below those that systems give to connections."""


def free_port() -> int:
    """Return one that nobody is given by chance, as another process's connection could be before it is used."""
    for port in random.sample(_PORTS, 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")
