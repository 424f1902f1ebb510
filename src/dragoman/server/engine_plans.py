"""The kinds of engines that a deployment may have, as the settings plan them: one plan for each replica."""

from pathlib import Path

import msgspec

from dragoman.core.embedding import ModelKind
from dragoman.engines.llama.weights.sources import ModelFile
from dragoman.engines.llama.wire.adapter_registry import AdapterRecord
from dragoman.engines.llama.wire.options import ImageLimits
from dragoman.output.markup import ToolFormatName
from dragoman.server.settings import EchoSettings, EngineSettings, LoadPolicy
from dragoman.server.upstream_settings import UpstreamSettings


class EchoPlan(msgspec.Struct, frozen=True, kw_only=True):
    """An echo engine, which runs inside every worker."""

    echo: EchoSettings
    tool_format: ToolFormatName | None = None
    """None: its default."""


class LlamaPlan(msgspec.Struct, frozen=True, kw_only=True):
    """An embedded engine in a process of its own."""

    model: ModelFile
    engine: EngineSettings
    tool_format: ToolFormatName | None = None
    """None: the one that the model's chat template shows."""
    load: LoadPolicy = "eager"
    unload_idle_seconds: float | None = None
    shared_prefixes: tuple[str, ...] = ()
    architecture: str | None = None
    """The architecture that its adapters need. None: it takes no adapters."""
    adapters: tuple[AdapterRecord, ...] = ()
    kind: ModelKind = "generation"
    """What the model is for."""
    dimensions: tuple[int, ...] = ()
    """Lengths to which the vectors of a model for embeddings may be cut."""
    mmproj: Path | None = None
    """The projector file. None: the model takes no images."""
    images: ImageLimits | None = None
    """What the images of a request may have. None: the model takes no images."""

    @property
    def on_demand(self) -> bool:
        """Whether its process may be absent, and is started by a request."""
        return self.load == "lazy" or self.unload_idle_seconds is not None


class UpstreamPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Another server, which every worker reaches by itself."""

    upstream: UpstreamSettings
    model: str
    """What it calls the model."""
    kind: ModelKind = "generation"
    """What the model is for."""


EnginePlan = EchoPlan | LlamaPlan | UpstreamPlan
