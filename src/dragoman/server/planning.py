"""From the settings to what is served under which names."""

from collections.abc import Callable, Sequence

import msgspec

from dragoman.engines.llama.native.libraries.choice import PACKAGED_BUILDS
from dragoman.engines.llama.weights.gguf_files import ModelSourceError, architecture
from dragoman.engines.llama.weights.rewriting import faster_file
from dragoman.engines.llama.weights.sources import ModelFile, resolve
from dragoman.engines.llama.wire.adapter_registry import AdapterRecord
from dragoman.server.settings import DeploymentSettings, DialectName, LoadPolicy, Settings

ECHO = "echo"
"""The model name that stands for the echo engine."""

RESERVED_NAMES = frozenset(
    {
        "admin",
        "api",
        "app",
        "chat",
        "completions",
        "docs",
        "empower",
        "engines",
        "health",
        "metrics",
        "models",
        "openai",
    }
    | {"public", "queue", "ready", "utils", "v1", "v2", "v3", "v4", "v5"}
)
"""As a first part of a path these lead elsewhere, so that no deployment shown in float16 may be called so."""


class DeploymentError(Exception):
    """The deployments cannot be served as they are set. One line for a person."""


class DeploymentPlan(msgspec.Struct, frozen=True):
    """One model to be served."""

    name: str
    aliases: tuple[str, ...]
    model: ModelFile | None
    """None: the echo engine."""
    dialects: tuple[DialectName, ...] | None = None
    """The dialects that show it; None: all."""
    load: LoadPolicy = "eager"
    unload_idle_seconds: float | None = None
    architecture: str | None = None
    """What its adapters must be made for; None: it takes none."""
    adapters: tuple[AdapterRecord, ...] = ()

    @property
    def on_demand(self) -> bool:
        """Whether it may not be loaded, and is loaded when asked for."""
        return self.load == "lazy" or self.unload_idle_seconds is not None


def plan_deployments(settings: Settings, *, progress: bool = False) -> list[DeploymentPlan]:
    """What is to be served, in the order of the settings. Raises DeploymentError or ModelSourceError.

    Without [[deployments]] it is the one model of the settings, under its own name.
    """
    if not settings.deployments:
        return [_plan_single_model(settings.model, progress=progress)]
    if settings.model is not None:
        raise DeploymentError("a model and [[deployments]] are both set; say it in one place")
    plans = [_plan_deployment(deployment, progress=progress) for deployment in settings.deployments]
    taken: dict[str, str] = {}
    for deployment in plans:
        for name in (deployment.name, *deployment.aliases):
            if name in taken:
                raise DeploymentError(f"the deployments {taken[name]} and {deployment.name} are both called {name}")
            taken[name] = deployment.name
    return plans


def with_faster_weights(
    plans: Sequence[DeploymentPlan], settings: Settings, *, progress: bool, report: Callable[[str], None]
) -> list[DeploymentPlan]:
    """The same, with a faster copy in place of a model's file where there is one to be had: see rewriting.faster_file.

    What is slow was measured with the packaged libraries; with another one nothing is rewritten.
    """
    if settings.engine.requantize == "never" or settings.engine.llama_library not in (None, *PACKAGED_BUILDS):
        return list(plans)

    def faster(model: ModelFile) -> ModelFile:
        return msgspec.structs.replace(model, path=faster_file(model.path, progress=progress, notify=report))

    return [
        msgspec.structs.replace(planned, model=faster(planned.model)) if planned.model else planned for planned in plans
    ]


def _plan_single_model(model: str | None, *, progress: bool) -> DeploymentPlan:
    if model == ECHO:
        return DeploymentPlan(ECHO, (), None)
    file = resolve(model, progress=progress)
    return DeploymentPlan(file.id, file.aliases, file, architecture=_architecture(file))


def _plan_deployment(settings: DeploymentSettings, *, progress: bool) -> DeploymentPlan:
    shown_in_float16 = settings.dialects is None or "float16" in settings.dialects
    if shown_in_float16 and settings.name.lower() in RESERVED_NAMES:
        raise DeploymentError(
            f"a deployment called {settings.name} would stand in the way of the path /{settings.name.lower()}; "
            "choose another name, or leave float16 out of its dialects"
        )
    model = None if settings.model == ECHO else resolve(settings.model, progress=progress)
    model_names = (model.id, *model.aliases) if model else ()
    aliases = dict.fromkeys(name for name in (*settings.aliases, *model_names) if name != settings.name)
    return DeploymentPlan(
        settings.name,
        tuple(aliases),
        model,
        settings.dialects,
        settings.load,
        settings.unload_idle_seconds,
        _architecture(model) if model else None,
    )


def _architecture(model: ModelFile) -> str | None:
    try:
        return architecture(model.path)
    except ModelSourceError:
        return None  # the engine says better why such a file cannot be served
