"""Folders at a path that others may have taken meanwhile."""

import os
import stat
from pathlib import Path


def is_own_folder(path: Path | str) -> bool:
    """Whether there is a folder of this process's user, and not a link to one: anyone may make files in /tmp."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def is_missing_in_own_folder(path: str) -> bool:
    """Whether there is no such file in a folder that is still this user's."""
    return is_own_folder(Path(path).parent) and not os.path.lexists(path)
