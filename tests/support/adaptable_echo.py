"""An echo engine that takes adapters, which change nothing but are kept account of."""

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import msgspec

from dragoman.core.adapters import Adapter
from dragoman.core.errors import BadRequest, ModelNotFound, NameTaken
from dragoman.core.events import Event
from dragoman.core.request import GenerationRequest
from dragoman.engines.echo import EchoEngine

UNFIT = "unfit.gguf"
"""A file that fits no model."""


class HeldAdapters:
    """Implements engines.base.AdapterHost in memory."""

    def __init__(self, architecture: str = "llama") -> None:
        self.architecture = architecture
        self.held: dict[str, Adapter] = {}

    def list_adapters(self) -> Sequence[Adapter]:
        return list(self.held.values())

    async def add(self, adapter: Adapter, path: Path) -> Adapter:
        if path.name == UNFIT:
            raise BadRequest(f"{path.name} cannot be used as an adapter: it has another shape", "model_name")
        if (known := self.held.get(adapter.name)) is not None:
            if known.source != adapter.source:
                raise NameTaken(adapter.name)
            return known
        self.held[adapter.name] = msgspec.structs.replace(adapter, digest=f"digest of {path.name}")
        return self.held[adapter.name]

    async def remove(self, name: str) -> Adapter:
        if name not in self.held:
            raise ModelNotFound(name)
        return self.held.pop(name)


class AdaptableEcho(EchoEngine):
    """Remembers what adapter each request was for."""

    def __init__(self, architecture: str = "llama") -> None:
        super().__init__()
        self.adapters = self.held = HeldAdapters(architecture)
        self.asked: list[str | None] = []

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        self.asked.append(request.adapter)
        async for event in super().generate(request):
            yield event
