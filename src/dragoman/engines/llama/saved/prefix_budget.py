"""The budget of a folder of saved prefixes, which all models and processes share that use it."""

import contextlib
import time
from pathlib import Path
from typing import NamedTuple

from dragoman.engines.llama.saved.prefix_file import PARTIAL_SUFFIX, SUFFIX

MAX_FILES = 4096
"""The most files of all models together. Those that begin alike are all compared with a request."""

_STALE_SECONDS = 600.0
"""The age at which a file that is still being written has lost its process."""


class SavedPrefixStatistics(NamedTuple):
    """The prefixes that an engine keeps on disk."""

    hits: int = 0
    """Requests for which some were read since the engine started."""
    tokens: int = 0
    """Tokens that these requests needed not compute."""
    evictions: int = 0
    """Files that were deleted for others since the engine started."""
    bytes: int = 0
    """Of all files in the folder."""


class PrefixBudget:
    """Deletes the files that were used longest ago. The folder has a folder for each model."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self.max_bytes = max_bytes
        self.bytes = 0
        """Of all files, when they were last counted."""
        self.evictions = 0
        """Files that were deleted for others."""

    def make_room(self, size: int) -> None:
        """Delete files until another one of this size fits. Raises OSError."""
        files = self.measure()
        while files and (self.bytes + size > self.max_bytes or len(files) >= MAX_FILES):
            _, length, path = files.pop()
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            self.bytes -= length
            self.evictions += 1

    def measure(self) -> list[tuple[float, int, Path]]:
        """Count the files, and return when each was used, its size and its path, the latest first. Raises OSError.

        What a killed process has left behind is deleted.
        """
        files: list[tuple[float, int, Path]] = []
        for folder in self._folder.iterdir():
            for path in folder.iterdir() if folder.is_dir() else ():
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    if path.name.endswith(PARTIAL_SUFFIX) and time.time() - status.st_mtime > _STALE_SECONDS:
                        path.unlink()
                    elif path.name.endswith((PARTIAL_SUFFIX, SUFFIX)):
                        files.append((status.st_mtime, status.st_size, path))
        self.bytes = sum(size for _, size, _ in files)
        return sorted(files, reverse=True)
