"""Which adapters an engine process serves, in a file beside its socket.

The process alone writes it. Workers read it whenever it has changed, so that all of them know at once what any of them
registered, also while the process is not running; a new process begins with what the last one served.
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
    """The registry of the engine process with this socket."""
    return socket_path.with_suffix(".adapters.json")


def write_registry(path: Path, records: Sequence[AdapterRecord]) -> None:
    """Replace what the registry says; whoever reads sees all of it or nothing of it."""
    temporary = path.with_suffix(".new")
    temporary.write_bytes(msgspec.json.encode(records))
    temporary.replace(path)


def read_registry(path: Path) -> list[AdapterRecord]:
    """What the registry says; nothing if there is none."""
    try:
        return _decoder.decode(path.read_bytes())
    except FileNotFoundError:
        return []
