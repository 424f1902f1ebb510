"""Files and folders that only their user may read: they hold prompts, answers and money, whatever the umask is."""

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

_FILE_MODE, _FOLDER_MODE = 0o600, 0o700


def create_private_file(path: Path) -> None:
    """Create an empty file unless it exists. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, _FILE_MODE))


def create_private_folder(path: Path) -> None:
    """Create a folder and its missing parents. Raises OSError."""
    for folder in (*reversed(path.absolute().parents), path):
        if not folder.is_dir():
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=_FOLDER_MODE)
    path.mkdir(exist_ok=True)  # Raises FileExistsError if it is a file.


def restrict_to_owner(paths: Iterable[Path]) -> list[Path]:
    """Take all rights of others away from existing files and folders of this user, and return those that were changed.

    Files and folders of other users are left as they are.
    """
    return [path for path in paths if _restrict(path)]


def _restrict(path: Path) -> bool:
    try:
        status = path.stat()
        others = status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
        if status.st_uid != os.geteuid() or not others or status.st_mode & stat.S_ISVTX:
            return False  # The sticky bit is that of folders like /tmp.
        path.chmod(_FOLDER_MODE if stat.S_ISDIR(status.st_mode) else _FILE_MODE)
    except OSError:
        return False  # It is missing, or on a file system without rights.
    return True
