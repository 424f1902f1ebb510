"""The adapters of an engine process, from the side of an HTTP worker."""

import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from dragoman.core.adapters import Adapter
from dragoman.engines.llama.wire.adapter_registry import AdapterRecord, read_registry
from dragoman.engines.llama.wire.messages import AddAdapterCommand, RemoveAdapterCommand

AdapterCommand = AddAdapterCommand | RemoveAdapterCommand


class RemoteAdapters:
    """Implements engines.base.AdapterHost: sends changes to the process, and lists adapters from its registry."""

    def __init__(
        self,
        registry: Path,
        architecture: str,
        send_command: Callable[[Callable[[int], AdapterCommand]], Awaitable[Adapter]],
    ) -> None:
        """`send_command` makes a command with a new number, sends it, and waits for the reply."""
        self._reader = AdapterRegistryReader(registry)
        self._send_command = send_command
        self.architecture = architecture

    def list_adapters(self) -> Sequence[Adapter]:
        return self._reader.adapters()

    async def add(self, adapter: Adapter, path: Path) -> Adapter:
        record = AdapterRecord(adapter, str(path))
        return await self._send_command(lambda number: AddAdapterCommand(number, record))

    async def remove(self, name: str) -> Adapter:
        return await self._send_command(lambda number: RemoveAdapterCommand(number, name))


class AdapterRegistryReader:
    """Reads the registry again only after it was written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version: tuple[int, int] | None = None
        self._adapters: tuple[Adapter, ...] = ()

    def adapters(self) -> tuple[Adapter, ...]:
        """Return all served adapters, oldest first."""
        try:
            status = os.stat(self._path)  # noqa: PTH116 - every request does it, and a Path takes twice as long
        except FileNotFoundError:
            return ()
        version = status.st_ino, status.st_mtime_ns
        if version != self._version:
            self._adapters = tuple(record.adapter for record in read_registry(self._path))
            self._version = version
        return self._adapters
