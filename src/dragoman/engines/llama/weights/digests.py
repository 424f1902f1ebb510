"""SHA-256 digests of files, computed once for each file and stored in the cache folder."""

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

from dragoman.engines.llama.weights.gguf_files import part_names

_INDEX = "digests.json"

_READ_BYTES = 2**22


class _CachedDigest(msgspec.Struct, frozen=True):
    """The digest of a file, and the file's signature when it was computed."""

    size: int
    modified_ns: int
    inode: int
    digest: str


_Index = dict[str, _CachedDigest]
"""Path → digest."""


class DigestCancelled(Exception):
    """The computation was cancelled."""


def cache_folder() -> Path:
    """Return dragoman's folder in the user's cache, which may not exist. Raises OSError when the user has no home."""
    # An empty or relative value is ignored: XDG Base Directory Specification 0.8.
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if configured.is_absolute():
        return configured / "dragoman"
    try:
        return Path.home() / ".cache" / "dragoman"
    except RuntimeError as error:
        raise OSError(errno.ENOENT, "there is no home folder; set XDG_CACHE_HOME") from error


def write_cached(name: str, content: bytes) -> None:
    """Write a file of the cache folder. Readers see all of it or nothing. Raises OSError."""
    path = cache_folder() / name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    temporary.write_bytes(content)
    temporary.replace(path)


def file_signature(status: os.stat_result) -> tuple[int, int, int]:
    """Return size, time of change in nanoseconds, and inode. With the same signature a file is considered unchanged."""
    return status.st_size, status.st_mtime_ns, status.st_ino


def content_digest(path: Path, cancelled: threading.Event | None = None) -> str:
    """Return the SHA-256 of the file, or of all parts of a split model, in hexadecimal. 100 MB take 0.1 seconds.

    A file with the path, size, time of change and inode of one that was read before is not read again. Raises OSError,
    or DigestCancelled soon after `cancelled` is set.
    """
    digests = [_file_digest(path.with_name(name).resolve(), cancelled) for name in part_names(path.name)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def files_by_digest() -> dict[str, Path]:
    """Return the files with a stored digest that are unchanged since, by their digest."""
    return {entry.digest: Path(path) for path, entry in _index().items() if _is_unchanged(Path(path), entry)}


class DigestComputation:
    """Computes the digests of several files on a thread of its own, which ends with the `with` block."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._cancelled = threading.Event()
        self._thread = ThreadPoolExecutor(1, "digesting")
        self._future: Future[list[str]] = self._thread.submit(
            lambda: [content_digest(path, self._cancelled) for path in paths]
        )

    async def digests(self) -> list[str]:
        """Wait for the digests, in the order of the paths. Raises OSError."""
        return await asyncio.wrap_future(self._future)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._cancelled.set()
        self._thread.shutdown()


def _file_digest(path: Path, cancelled: threading.Event | None) -> str:
    cached = _index().get(str(path))
    if cached is not None and _is_unchanged(path, cached):
        return cached.digest
    computed = hashlib.sha256()
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        while piece := file.read(_READ_BYTES):
            if cancelled is not None and cancelled.is_set():
                raise DigestCancelled
            computed.update(piece)
    digest = computed.hexdigest()
    _store_digest(path, _CachedDigest(*file_signature(status), digest))
    return digest


def _is_unchanged(path: Path, cached: _CachedDigest) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return file_signature(status) == (cached.size, cached.modified_ns, cached.inode)


def _index() -> _Index:
    try:
        return msgspec.json.decode(cache_folder().joinpath(_INDEX).read_bytes(), type=_Index)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _store_digest(path: Path, entry: _CachedDigest) -> None:
    # If the cache cannot be written, the digest is computed again next time. The same happens if two processes write
    # at the same moment and one overwrites the entry of the other.
    with contextlib.suppress(OSError):
        index = {old: cached for old, cached in _index().items() if _is_unchanged(Path(old), cached)} | {
            str(path): entry
        }
        write_cached(_INDEX, msgspec.json.encode(index))
