"""The adapters of an engine process as an HTTP worker sees them."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from dragoman.core.adapters import Adapter
from dragoman.engines.llama.wire.adapter_registry import AdapterRecord, AdapterRegistryReader
from dragoman.engines.llama.wire.messages import AddAdapterCommand, RemoveAdapterCommand

AdapterCommand = AddAdapterCommand | RemoveAdapterCommand


class RemoteAdapters:
    """Implements engines.base.AdapterHost: asks the process to change them and reads its registry to know them."""

    def __init__(
        self,
        registry: Path,
        architecture: str,
        send_command: Callable[[Callable[[int], AdapterCommand]], Awaitable[Adapter]],
    ) -> None:
        """`ask` sends the command that is made with a number of its own, and waits for the answer."""
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
