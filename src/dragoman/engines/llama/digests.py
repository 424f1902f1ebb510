"""What files hold, in a short form: SHA-256, computed once for a file and remembered in the cache folder."""

import asyncio
import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from dragoman.engines.llama.gguf_files import parts

_INDEX = "digests.json"

_READ_BYTES = 2**22


class _Remembered(msgspec.Struct, frozen=True):
    """A file's digest, and what the file looked like when it was computed."""

    size: int
    modified_ns: int
    inode: int
    digest: str


_Index = dict[str, _Remembered]
"""By the file's path."""


class GivenUp(Exception):
    """Nobody wants the digest any more."""


def cache_folder() -> Path:
    """dragoman's folder in the user's cache, which may not be there yet. Raises OSError when the user has no home."""
    # An empty or relative value counts for nothing: XDG Base Directory Specification 0.8.
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():
        return named / "dragoman"
    try:
        return Path.home() / ".cache" / "dragoman"
    except RuntimeError as error:
        raise OSError(errno.ENOENT, "there is no home folder; set XDG_CACHE_HOME") from error


def write_cached(name: str, content: bytes) -> None:
    """Write a file of the cache folder; whoever reads it sees all of it or nothing of it. Raises OSError."""
    path = cache_folder() / name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def appearance(status: os.stat_result) -> tuple[int, int, int]:
    """Size, time of change in nanoseconds, and inode: a file that looks as it did holds what it held."""
    return status.st_size, status.st_mtime_ns, status.st_ino


def content_digest(path: Path, given_up: threading.Event | None = None) -> str:
    """SHA-256 of the file, or of all parts of a split model, in hexadecimal digits; 100 MB take 0.1 seconds.

    A file with the path, size, time of change and inode of one that was read before is not read again. Raises OSError,
    or GivenUp soon after `given_up` is set.
    """
    digests = [_file_digest(path.with_name(name).resolve(), given_up) for name in parts(path.name)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def remembered_files() -> dict[str, Path]:
    """Files whose digest was computed and that still look as they did then, by their digest."""
    return {entry.digest: Path(path) for path, entry in _index().items() if _looks_like(Path(path), entry)}


class Digesting:
    """Computes several files' digests on a thread of its own; its block ends that thread."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._given_up = threading.Event()
        self._thread = ThreadPoolExecutor(1, "digesting")
        self._digests: Future[list[str]] = self._thread.submit(
            lambda: [content_digest(path, self._given_up) for path in paths]
        )

    async def digests(self) -> list[str]:
        """In the order of the paths. Raises OSError."""
        return await asyncio.wrap_future(self._digests)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._given_up.set()
        self._thread.shutdown()


def _file_digest(path: Path, given_up: threading.Event | None) -> str:
    remembered = _index().get(str(path))
    if remembered is not None and _looks_like(path, remembered):
        return remembered.digest
    computed = hashlib.sha256()
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        while piece := file.read(_READ_BYTES):
            if given_up is not None and given_up.is_set():
                raise GivenUp
            computed.update(piece)
    digest = computed.hexdigest()
    _remember(path, _Remembered(*appearance(status), digest))
    return digest


def _looks_like(path: Path, remembered: _Remembered) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return appearance(status) == (remembered.size, remembered.modified_ns, remembered.inode)


def _index() -> _Index:
    try:
        return msgspec.json.decode(cache_folder().joinpath(_INDEX).read_bytes(), type=_Index)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _remember(path: Path, entry: _Remembered) -> None:
    # Where nothing can be kept, the digest is computed again next time; that is all. The same when two processes
    # remember at the same moment, and one of them overwrites what the other wrote.
    with contextlib.suppress(OSError):
        index = {old: kept for old, kept in _index().items() if _looks_like(Path(old), kept)} | {str(path): entry}
        write_cached(_INDEX, msgspec.json.encode(index))
