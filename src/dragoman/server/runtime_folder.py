"""The folder of one running server: the engines' sockets, the adapter registries and the workers' metrics.

The server holds a lock on the folder as long as it lives, however it ends. A starting server removes the folders of its
own user whose lock is free. (Programs that clean temporary folders up leave locked ones alone, systemd's among them.)
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from dragoman.core import logs
from dragoman.core.own_folders import is_own_folder

_PREFIX = "dragoman-run-"
"""Folders without a lock have another prefix: those of servers before there were locks."""

_MAX_SOCKET_PATH_BYTES = 100
"""Of a Unix socket's path: sun_path has 108 bytes on Linux and 104 on macOS, of which one is a zero."""

_LONGEST_NAME = "control-4194304.sock"

_log = logs.get_logger(__name__)


class RuntimeFolderError(Exception):
    """There is no folder for the server's sockets. The message is one line for people."""


class RuntimeFolder:
    """A folder with a lock, removed at the end of the `with` block."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def create(cls, parents: Sequence[Path] | None = None) -> Self:
        """Make a folder in the first of `parents` that can have one. Raises RuntimeFolderError.

        The parents are the system's folder for temporary files, and /tmp if the path of a socket in it is too long.
        """
        problems = []
        for parent in _default_parents() if parents is None else parents:
            if len(os.fsencode(parent / f"{_PREFIX}12345678" / _LONGEST_NAME)) > _MAX_SOCKET_PATH_BYTES:
                problems.append(f"{parent} is too long for the path of a socket")
                continue
            try:
                return cls._create_in(parent)
            except OSError as error:
                problems.append(f"{parent}: {error.strerror}")
        raise RuntimeFolderError(f"no folder for the server's sockets can be made ({'; '.join(problems)}); set TMPDIR")

    @classmethod
    def _create_in(cls, parent: Path) -> Self:
        _remove_abandoned(parent)
        while True:
            path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            lock = _try_lock(path)
            if lock is not None:
                return cls(path, lock)
            # Another server found the folder before it was locked, and is removing it.

    def restore(self) -> bool:
        """Make the folder again if it was removed. Return whether that was so.

        Raises OSError, also if somebody else has taken its path meanwhile.
        """
        if is_own_folder(self.path):
            return False
        self.path.mkdir(mode=0o700)
        lock = _try_lock(self.path)
        if lock is not None:
            os.close(self._lock)
            self._lock = lock
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def folders_in_use(parents: Sequence[Path] | None = None) -> Iterator[Path]:
    """Yield the folders of this user's running servers."""
    for parent in _default_parents() if parents is None else parents:
        for path in _own_folders(parent):
            lock = _try_lock(path)
            if lock is None:
                yield path
            else:
                os.close(lock)


def _default_parents() -> Sequence[Path]:
    parents = [Path("/tmp")]
    with contextlib.suppress(FileNotFoundError):  # None is writable, or all are full.
        parents.insert(0, Path(tempfile.gettempdir()))
    return list(dict.fromkeys(parents))


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of servers that were killed."""
    for path in _own_folders(parent):
        lock = _try_lock(path)
        if lock is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)
            _log.info("runtime_folder_removed", path=str(path), reason="its server is gone")


def _own_folders(parent: Path) -> Iterator[Path]:
    """Yield this user's folders. Anyone may have made others of this name."""
    with contextlib.suppress(OSError):
        for path in parent.glob(f"{_PREFIX}*"):
            if is_own_folder(path):
                yield path


def _try_lock(path: Path) -> int | None:
    """Return an open and locked descriptor of the folder, or None if another process has the lock or removed it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None
