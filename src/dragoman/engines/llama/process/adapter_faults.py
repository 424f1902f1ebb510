"""The adapters that the engine process ended with: after a restart, those that ended it repeatedly are not served.

A probe finds no adapter whose values overflow for certain tokens only, and llama.cpp has other faults. Whatever ends
the process, it ends the requests of all.
"""

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from dragoman.core import logs
from dragoman.core.adapters import Adapter
from dragoman.engines.llama.native.backend import DecodeError

_log = logs.get_logger(__name__)

MAX_FAULTS_OF_CONTENT = 2
"""How often the process may end with an adapter. A request without output is sent again, so that one suffices."""

MAX_FAULTS_OF_OWNER = 4
"""How often it may end with the adapters of one client: an adapter is easily changed to be another one."""

_NOTE_BYTES = 4096
_NOTHING = b"\0" * _NOTE_BYTES


class AdapterFault(msgspec.Struct, frozen=True):
    """An adapter that the process ended with."""

    content: str
    """Its file and its scale."""
    owner: str
    name: str
    """As the process knows it."""


def fault_of(adapter: Adapter) -> AdapterFault:
    """Return what is counted when the process ends with this adapter. Its digest must be known."""
    return AdapterFault(f"{adapter.digest} {adapter.scale}", adapter.owner, adapter.qualified_name)


_decoder: msgspec.json.Decoder[list[AdapterFault]] = msgspec.json.Decoder(list[AdapterFault])
_note_decoder = msgspec.json.Decoder(AdapterFault)


class AdapterFaults:
    """Counts how often processes with the same registry ended with an adapter.

    What is being computed is noted in a file, which outlasts any end of the process.
    """

    def __init__(self, registry: Path) -> None:
        """Read what the last process has left beside the registry."""
        self._note_path = registry.with_suffix(".computing")
        self._faults: list[AdapterFault] = []
        faults = registry.with_suffix(".faults.json")
        # A damaged file, or none, must not keep the process from starting.
        with contextlib.suppress(OSError, msgspec.DecodeError):
            self._faults = _decoder.decode(faults.read_bytes())
        with contextlib.suppress(OSError, msgspec.DecodeError):
            if note := self._note_path.read_bytes().rstrip(b"\0"):
                self._note_path.unlink()
                self._faults.append(_note_decoder.decode(note))
                _log.error("engine_ended_with_adapter", adapter=self._faults[-1].name)
                faults.write_bytes(msgspec.json.encode(self._faults))

    @contextlib.contextmanager
    def computing(self, fault: AdapterFault) -> Iterator[None]:
        """Note that the block computes with an adapter. If the process ends by it, that was the adapter's fault."""
        self._write(msgspec.json.encode(fault).ljust(_NOTE_BYTES, b"\0"))
        try:
            yield
        except DecodeError:
            raise  # The process ends by it.
        except BaseException:
            self._write(_NOTHING)
            raise
        self._write(_NOTHING)

    def _write(self, note: bytes) -> None:
        with contextlib.suppress(OSError):  # On a full disk nothing is counted; all requests are answered.
            os.pwrite(self._note, note, 0)

    @functools.cached_property
    def _note(self) -> int:
        """The descriptor of the file for the process's life."""
        return os.open(self._note_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def refusal(self, adapter: Adapter) -> str | None:
        """Return why an adapter is not served. None: it may be."""
        content, owner = fault_of(adapter).content, adapter.owner
        if sum(fault.content == content for fault in self._faults) >= MAX_FAULTS_OF_CONTENT:
            return (
                f"The engine ended repeatedly while it computed with the adapter {adapter.name}, which it refuses now"
            )
        if owner and sum(fault.owner == owner for fault in self._faults) >= MAX_FAULTS_OF_OWNER:
            return "The engine ended repeatedly while it computed with adapters of yours, which it refuses now"
        return None
