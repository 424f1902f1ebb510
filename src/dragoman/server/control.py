"""The control socket of a running server, in its runtime folder, which only its user can enter.

Its name holds the number of the server's process. One line is a command, and one line of JSON the answer:

- `reload` reads the settings again.
- `listener` answers with the listening socket itself, for a server that takes over (SCM_RIGHTS of unix(7)).
- `load NAME` and `unload NAME` start the engines of a deployment, or end them when they have no request.
- `retire` stops the server once its running requests have ended: another one accepts on its socket.
"""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from dragoman.server.reloading import Reloader, ReloadRefused, ReloadResult

_RELOAD, _LISTENER, _RETIRE = b"reload\n", b"listener\n", b"retire\n"
_MODEL_COMMANDS = (b"load ", b"unload ")
_ANSWER_SECONDS = 30.0
_MAX_COMMAND_BYTES = 512
_MAX_ANSWER_BYTES = 1024 * 1024


class ControlledServer(NamedTuple):
    """What the commands act on."""

    reloader: Reloader
    listener: socket.socket
    retire: Callable[[], None]
    change_model: Callable[["ModelAction", str], None]
    """Loads or unloads the deployment of a name. Raises ModelChangeRefused."""


ModelAction = Literal["load", "unload"]


class ModelChangeRefused(Exception):
    """A model is neither loaded nor unloaded. The message is one line for people."""


class TakeOverFailed(Exception):
    """There is no server to take over from. The message is one line for people."""


class _Refusal(msgspec.Struct, frozen=True, tag="refused"):
    reason: str


class _Changed(msgspec.Struct, frozen=True, tag="changed"):
    pass


class _Made(msgspec.Struct, frozen=True, tag="made"):
    result: ReloadResult


@contextlib.asynccontextmanager
async def control_socket(folder: Path, server: ControlledServer) -> AsyncIterator[None]:
    """Answer commands within the block, one after the other."""
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(str(folder / f"control-{os.getpid()}.sock"))
        control.listen()
        control.setblocking(False)
        answering = asyncio.create_task(_answer_all(control, server))
        try:
            yield
        finally:
            answering.cancel()


async def _answer_all(control: socket.socket, server: ControlledServer) -> None:
    loop = asyncio.get_running_loop()
    while True:
        connection, _ = await loop.sock_accept(control)
        with connection, contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                command = await loop.sock_recv(connection, _MAX_COMMAND_BYTES)
                if command == _RELOAD:
                    await loop.sock_sendall(connection, msgspec.json.encode(await _reload(server.reloader)) + b"\n")
                elif command == _LISTENER:
                    socket.send_fds(connection, [b"{}\n"], [server.listener.fileno()])
                elif command.startswith(_MODEL_COMMANDS):
                    answer = _change_model(server, command.decode(errors="replace").strip())
                    await loop.sock_sendall(connection, msgspec.json.encode(answer) + b"\n")
                elif command == _RETIRE:
                    server.retire()
                    await loop.sock_sendall(connection, b"{}\n")


def _change_model(server: ControlledServer, command: str) -> _Changed | _Refusal:
    action, _, name = command.partition(" ")
    try:
        server.change_model("load" if action == "load" else "unload", name)
    except ModelChangeRefused as error:
        return _Refusal(str(error))
    return _Changed()


async def _reload(reloader: Reloader) -> _Made | _Refusal:
    try:
        return _Made(await reloader.reload())
    except ReloadRefused as error:
        return _Refusal(str(error))


def request_reload(folder: Path) -> ReloadResult:
    """Have the server with this runtime folder reload its settings. Blocks. Raises ReloadRefused."""
    try:
        with _sent(folder, _RELOAD) as connection, connection.makefile("rb") as answers:
            line = answers.readline(_MAX_ANSWER_BYTES)
        answer: _Made | _Refusal = msgspec.json.decode(line, type=_Made | _Refusal)
    except (OSError, msgspec.DecodeError) as error:
        raise ReloadRefused(f"the server's parent process does not answer: {error}") from error
    if isinstance(answer, _Refusal):
        raise ReloadRefused(answer.reason)
    return answer.result


def request_model_change(folder: Path, action: ModelAction, model: str) -> None:
    """Have the server with this runtime folder load or unload a deployment. Blocks. Raises ModelChangeRefused."""
    try:
        with _sent(folder, f"{action} {model}\n".encode()) as connection, connection.makefile("rb") as answers:
            line = answers.readline(_MAX_ANSWER_BYTES)
        answer: _Changed | _Refusal = msgspec.json.decode(line, type=_Changed | _Refusal)
    except (OSError, msgspec.DecodeError) as error:
        raise ModelChangeRefused(f"the server's parent process does not answer: {error}") from error
    if isinstance(answer, _Refusal):
        raise ModelChangeRefused(answer.reason)


def receive_listener(folder: Path) -> socket.socket:
    """Return the listening socket of the server with this runtime folder. Blocks. Raises TakeOverFailed."""
    try:
        with _sent(folder, _LISTENER) as connection:
            _, descriptors, _, _ = socket.recv_fds(connection, _MAX_COMMAND_BYTES, 1)
        return socket.socket(fileno=descriptors[0])
    except (OSError, IndexError) as error:
        raise TakeOverFailed(f"the server does not hand over its socket: {error}") from error


def request_retirement(folder: Path) -> None:
    """Have the server with this runtime folder stop accepting, and end with its running requests. Blocks.

    Raises OSError.
    """
    with _sent(folder, _RETIRE) as connection:
        connection.recv(_MAX_COMMAND_BYTES)


def _sent(folder: Path, command: bytes) -> socket.socket:
    """Return a connection on which the command has been sent. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(_ANSWER_SECONDS)
        connection.connect(str(_socket_in(folder)))
        connection.sendall(command)
    except OSError:
        connection.close()
        raise
    return connection


def server_process(folder: Path) -> int | None:
    """Return the number of the server's process; None if it has no control socket."""
    path = next(folder.glob("control-*.sock"), None)
    return None if path is None else int(re.sub(r"\D", "", path.name))


def server_name(folder: Path) -> str:
    """Return what people call the server of a runtime folder: its process, or the folder if there is none."""
    process = server_process(folder)
    return folder.name if process is None else f"process {process}"


def _socket_in(folder: Path) -> Path:
    """Return the path of the control socket. Raises FileNotFoundError."""
    path = next(folder.glob("control-*.sock"), None)
    if path is None:
        raise FileNotFoundError("it has no control socket")
    return path
