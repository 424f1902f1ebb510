"""An echo engine that records adapters, which do not change its answers."""

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import msgspec

from dragoman.core.adapters import Adapter
from dragoman.core.errors import BadRequest, ModelNameTaken, ModelNotFound
from dragoman.core.events import Event
from dragoman.core.request import GenerationRequest
from dragoman.engines.echo import EchoEngine

INCOMPATIBLE_FILE = "unfit.gguf"
"""A file that no model can use."""


class InMemoryAdapterHost:
    """Implements engines.base.AdapterHost in memory."""

    def __init__(self, architecture: str = "llama") -> None:
        self.architecture = architecture
        self.by_name: dict[str, Adapter] = {}

    def list_adapters(self) -> Sequence[Adapter]:
        return list(self.by_name.values())

    async def add(self, adapter: Adapter, path: Path) -> Adapter:
        if path.name == INCOMPATIBLE_FILE:
            raise BadRequest(f"{path.name} cannot be used as an adapter: it has another shape", "model_name")
        if (existing := self.by_name.get(adapter.name)) is not None:
            if existing.source != adapter.source:
                raise ModelNameTaken(adapter.name)
            return existing
        self.by_name[adapter.name] = msgspec.structs.replace(adapter, digest=f"digest of {path.name}")
        return self.by_name[adapter.name]

    async def remove(self, name: str) -> Adapter:
        if name not in self.by_name:
            raise ModelNotFound(name)
        return self.by_name.pop(name)


class AdaptableEcho(EchoEngine):
    """Records the adapter of each request."""

    def __init__(self, architecture: str = "llama") -> None:
        super().__init__()
        self.adapters = self.adapter_host = InMemoryAdapterHost(architecture)
        self.requested_adapters: list[str | None] = []

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        self.requested_adapters.append(request.adapter)
        async for event in super().generate(request):
            yield event
