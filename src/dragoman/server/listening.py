"""The socket on which a server listens: a port, a Unix socket, or one that systemd has opened (socket activation)."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path

import msgspec

from dragoman.core.user_paths import user_path
from dragoman.server.settings import Settings
from dragoman.server.start_checks import StartupError

_BACKLOG = 2048

_FIRST_ACTIVATED_FD = 3
"""Of sd_listen_fds(3)."""

_UNIX_SOCKET_MODE = 0o660
"""The server's user and group may connect."""


def take_activated_socket(environment: MutableMapping[str, str]) -> socket.socket | None:
    """Return the listening socket that systemd has opened for this process, if any. Raises StartupError.

    Its variables are removed from the environment, so that no child takes the socket for its own.
    """
    process_id, number = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if process_id != str(os.getpid()):
        return None
    if number != "1":
        raise StartupError(f"systemd has passed {number or 'no'} sockets; one is served, so set one ListenStream=")
    listener = socket.socket(fileno=_FIRST_ACTIVATED_FD)
    listener.set_inheritable(False)
    if listener.type != socket.SOCK_STREAM or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise StartupError("the socket that systemd has passed does not listen; set ListenStream= and Accept=no")
    return listener


def with_address_of(listener: socket.socket, settings: Settings) -> Settings:
    """Return the settings with the address of a socket that was opened for this process."""
    address = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return msgspec.structs.replace(settings, uds=os.fsdecode(address) or "unnamed")
    return msgspec.structs.replace(settings, host=address[0], port=address[1], uds=None)


@contextlib.contextmanager
def listen(settings: Settings, is_handed_over: Callable[[], bool] = lambda: False) -> Iterator[socket.socket]:
    """Listen on the settings' Unix socket or port within the block. Raises StartupError.

    At its end the Unix socket is removed, unless it `is_handed_over` to another server.
    """
    if settings.uds is not None:
        with _listen_on_path(user_path(settings.uds), is_handed_over) as listener:
            yield listener
        return
    with _listen_on_port(settings.host, settings.port) as listener:
        yield listener


def _listen_on_port(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the host's name has an empty or too long part"
        raise StartupError(f"cannot listen on {host}:{port}: {reason}; choose another with --host or --port") from error
    return listener


@contextlib.contextmanager
def _listen_on_path(path: Path, is_handed_over: Callable[[], bool]) -> Iterator[socket.socket]:
    """Listen on a Unix socket, and remove its file at the end unless another server has replaced it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            _remove_abandoned(path)
            listener.bind(str(path))
            path.chmod(_UNIX_SOCKET_MODE)
            own = path.stat().st_ino
            listener.listen(_BACKLOG)
        except OSError as error:
            reason = error.strerror or error
            raise StartupError(f"cannot listen on {path}: {reason}; choose another with --uds") from error
        try:
            yield listener
        finally:
            with contextlib.suppress(OSError):
                if path.stat().st_ino == own and not is_handed_over():
                    path.unlink()


def _remove_abandoned(path: Path) -> None:
    """Remove the socket of a server that was killed. Raises StartupError for anything else at the path."""
    if not os.path.lexists(path):
        return
    if not path.is_socket():
        raise StartupError(f"cannot listen on {path}: it exists and is no socket; choose another with --uds")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise StartupError(f"cannot listen on {path}: another server listens there; choose another with --uds")
