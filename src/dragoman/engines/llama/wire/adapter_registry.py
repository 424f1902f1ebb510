"""The adapter registry: a file beside the socket of an engine process that lists the adapters it serves.

Only the process writes the file. Workers read it whenever it has changed, so that each of them knows what another one
has registered, even while the process is not running. A new process loads what the last one served.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from dragoman.core.adapters import Adapter


class AdapterRecord(msgspec.Struct, frozen=True):
    """One adapter and the file it is loaded from."""

    adapter: Adapter
    path: str


_decoder: msgspec.json.Decoder[list[AdapterRecord]] = msgspec.json.Decoder(list[AdapterRecord])


def registry_path(socket_path: Path) -> Path:
    """Return the registry's path for the engine process with this socket."""
    return socket_path.with_suffix(".adapters.json")


def write_registry(path: Path, records: Sequence[AdapterRecord]) -> None:
    """Replace the registry's content. Readers see either the old or the new content."""
    temporary = path.with_suffix(".new")
    temporary.write_bytes(msgspec.json.encode(records))
    temporary.replace(path)


def read_registry(path: Path) -> list[AdapterRecord]:
    """Read the registry. Empty if the file does not exist."""
    try:
        return _decoder.decode(path.read_bytes())
    except FileNotFoundError:
        return []
