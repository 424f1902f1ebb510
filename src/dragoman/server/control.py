"""The control socket of a running server, in its runtime folder, which only its user can enter.

Its name holds the number of the server's process. One line is a command, and one line of JSON the answer. The only
command is `reload`.
"""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from dragoman.server.reloading import Reloader, ReloadRefused, ReloadResult

_RELOAD = b"reload\n"
_ANSWER_SECONDS = 30.0
_MAX_ANSWER_BYTES = 1024 * 1024


class _Refusal(msgspec.Struct, frozen=True, tag="refused"):
    reason: str


class _Made(msgspec.Struct, frozen=True, tag="made"):
    result: ReloadResult


@contextlib.asynccontextmanager
async def control_socket(folder: Path, reloader: Reloader) -> AsyncIterator[None]:
    """Answer commands within the block."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError, TimeoutError, ValueError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                if await reader.readline() == _RELOAD:
                    writer.write(msgspec.json.encode(await _reload(reloader)) + b"\n")
                    await writer.drain()

    server = await asyncio.start_unix_server(answer, folder / f"control-{os.getpid()}.sock")
    try:
        yield
    finally:
        server.close()


async def _reload(reloader: Reloader) -> _Made | _Refusal:
    try:
        return _Made(await reloader.reload())
    except ReloadRefused as error:
        return _Refusal(str(error))


def request_reload(folder: Path) -> ReloadResult:
    """Have the server with this runtime folder reload its settings. Blocks. Raises ReloadRefused."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_ANSWER_SECONDS)
            connection.connect(str(_socket_in(folder)))
            connection.sendall(_RELOAD)
            with connection.makefile("rb") as answers:
                line = answers.readline(_MAX_ANSWER_BYTES)
        answer: _Made | _Refusal = msgspec.json.decode(line, type=_Made | _Refusal)
    except (OSError, msgspec.DecodeError) as error:
        raise ReloadRefused(f"the server's parent process does not answer: {error}") from error
    if isinstance(answer, _Refusal):
        raise ReloadRefused(answer.reason)
    return answer.result


def server_process(folder: Path) -> int | None:
    """Return the number of the server's process; None if it has no control socket."""
    path = next(folder.glob("control-*.sock"), None)
    return None if path is None else int(re.sub(r"\D", "", path.name))


def _socket_in(folder: Path) -> Path:
    """Return the path of the control socket. Raises FileNotFoundError."""
    path = next(folder.glob("control-*.sock"), None)
    if path is None:
        raise FileNotFoundError("it has no control socket")
    return path
