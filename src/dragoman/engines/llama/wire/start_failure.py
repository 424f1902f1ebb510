"""The last failed start of an engine process: a file beside its socket, while there is nobody to ask.

The server's parent process writes it, and removes it when the engine runs. Workers read it only while they have no
connection to the engine.
"""

import contextlib
import time
from pathlib import Path

import msgspec


class EngineStartFailure(msgspec.Struct, frozen=True, kw_only=True):
    """Why the engine's process does not run."""

    model: str
    """The deployment's name."""
    reason: str
    """For the operator: it may name files of this machine."""
    attempts: int
    """Starts that failed in a row."""
    next_attempt_at: float | None
    """On the monotonic clock, which all processes of a machine share. None: an attempt is under way."""

    @property
    def retry_after(self) -> int | None:
        """Whole seconds until the next attempt, at least 1. None: an attempt is under way."""
        return None if self.next_attempt_at is None else max(1, round(self.next_attempt_at - time.monotonic()))


_decode = msgspec.json.Decoder(EngineStartFailure).decode


def start_failure_path(socket_path: Path) -> Path:
    """Return the file's path for the engine process with this socket."""
    return socket_path.with_suffix(".failure.json")


def write_start_failure(path: Path, failure: EngineStartFailure | None) -> None:
    """Replace the file; None removes it. A disk that is full only keeps others from knowing the reason."""
    with contextlib.suppress(OSError):
        if failure is None:
            path.unlink(missing_ok=True)
        else:
            temporary = path.with_suffix(".new")
            temporary.write_bytes(msgspec.json.encode(failure))
            temporary.replace(path)


def read_start_failure(path: Path) -> EngineStartFailure | None:
    """Read the file. None if there is none."""
    try:
        return _decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None


def read_start_failures(folder: Path) -> list[EngineStartFailure]:
    """Read all files in the folder of a server."""
    found = map(read_start_failure, sorted(folder.glob("*.failure.json")))
    return [failure for failure in found if failure is not None]
