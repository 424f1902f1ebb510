"""Plans what a server serves: the models and adapters of the settings, found, checked and named."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from dragoman.core.adapters import Adapter
from dragoman.core.embedding import ModelKind
from dragoman.core.user_paths import user_path
from dragoman.dialects.registry import DialectName
from dragoman.engines.base import AdapterFile
from dragoman.engines.llama.native.libraries.builds import PACKAGED_BUILDS
from dragoman.engines.llama.weights.adapter_files import resolve_adapter
from dragoman.engines.llama.weights.gguf_files import ModelSourceError
from dragoman.engines.llama.weights.gguf_metadata import architecture
from dragoman.engines.llama.weights.model_kind import model_kind
from dragoman.engines.llama.weights.model_numbers import check_model_numbers
from dragoman.engines.llama.weights.rewriting import faster_file
from dragoman.engines.llama.weights.sources import ModelFile, resolve
from dragoman.engines.llama.wire.adapter_registry import AdapterRecord
from dragoman.engines.llama.wire.options import ImageLimits
from dragoman.gateway.routing.router_options import RouterOptions
from dragoman.server.deployment_checks import DeploymentError, check_deployments, check_names
from dragoman.server.engine_plans import EchoPlan, EnginePlan, LlamaPlan, UpstreamPlan
from dragoman.server.image_settings import ImageSettings
from dragoman.server.settings import (
    AdapterSettings,
    DeploymentSettings,
    EngineSettings,
    Settings,
)
from dragoman.server.upstream_settings import UpstreamSettings

ECHO = "echo"
"""The model name that stands for the echo engine."""

URL_BEGINNINGS = ("http://", "https://", "unix://")
"""Of a model that is another server."""

MAX_ENGINES = 256
"""Replicas of all deployments together. A worker asks for the start of one by writing its number as one byte."""

MAX_SHARED_PREFIX_BYTES = 32 * 1024
"""Of one deployment. They are a part of its process's options, a variable of the environment that Linux limits to
128 KiB."""


class DeploymentPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One model to be served."""

    name: str
    aliases: tuple[str, ...]
    dialects: tuple[DialectName, ...] | None = None
    """The dialects that serve it. None: all."""
    engines: tuple[EnginePlan, ...]
    """One for each replica, at least one."""
    routing: RouterOptions = RouterOptions()
    attempts: int = 3
    fallbacks: tuple[str, ...] = ()
    context_fallbacks: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Its name and aliases."""
        return (self.name, *self.aliases)

    @property
    def architecture(self) -> str | None:
        """The architecture that its adapters need. None: it takes no adapters."""
        return next((engine.architecture for engine in self.engines if isinstance(engine, LlamaPlan)), None)

    @property
    def kind(self) -> ModelKind:
        """What the model is for."""
        return next((engine.kind for engine in self.engines if not isinstance(engine, EchoPlan)), "generation")

    @property
    def adapters(self) -> tuple[AdapterRecord, ...]:
        """The adapters of the settings that are served with it."""
        return next((engine.adapters for engine in self.engines if isinstance(engine, LlamaPlan)), ())

    def with_llama_engines(self, change: Callable[[LlamaPlan], LlamaPlan]) -> "DeploymentPlan":
        """Return the plan with its embedded engines changed."""
        engines = tuple(change(engine) if isinstance(engine, LlamaPlan) else engine for engine in self.engines)
        return msgspec.structs.replace(self, engines=engines)


def plan_server(settings: Settings, *, progress: bool, report: Callable[[str], None]) -> list[DeploymentPlan]:
    """Plan all deployments with their adapters and faster weights. Raises DeploymentError or ModelSourceError.

    `progress` shows downloads on the terminal. `report` is called with a line for people about each rewritten file.
    """
    plans = with_adapters(plan_deployments(settings, progress=progress), settings, progress=progress)
    return with_faster_weights(plans, progress=progress, report=report)


def plan_deployments(settings: Settings, *, progress: bool = False) -> list[DeploymentPlan]:
    """Plan the deployments in the order of the settings. Raises DeploymentError or ModelSourceError.

    Without [[deployments]], plan the one model of the settings under its own name.
    """
    if not settings.deployments:
        return _plan_single_model(settings, progress=progress)
    check_deployments(settings)
    plans = [_plan_deployment(deployment, settings, progress=progress) for deployment in settings.deployments]
    if sum(len(plan.engines) for plan in plans) > MAX_ENGINES:
        raise DeploymentError(f"the deployments have more than {MAX_ENGINES} replicas together")
    check_names((plan.name, plan.names) for plan in plans)
    return plans


def with_adapters(plans: list[DeploymentPlan], settings: Settings, *, progress: bool = False) -> list[DeploymentPlan]:
    """Return the plans with the adapters of the settings added to their bases. Raises DeploymentError."""
    taken = {name for plan in plans for name in plan.names}
    added: dict[str, list[AdapterRecord]] = {plan.name: [] for plan in plans}
    for adapter in settings.adapters:
        for name in (adapter.name, *adapter.aliases):
            if name in taken:
                raise _adapter_error(adapter, f"another model or adapter is called {name}")
            taken.add(name)
        base = _find_base(adapter, plans)
        added[base.name].append(_adapter_record(adapter, base, progress=progress))
        if len(added[base.name]) > settings.max_adapters:
            raise _adapter_error(adapter, f"{base.name} may have {settings.max_adapters} adapters; raise max_adapters")
    return [_with_adapters(plan, added[plan.name]) for plan in plans]


def _with_adapters(plan: DeploymentPlan, adapters: list[AdapterRecord]) -> DeploymentPlan:
    return plan.with_llama_engines(lambda engine: msgspec.structs.replace(engine, adapters=tuple(adapters)))


def with_faster_weights(
    plans: Sequence[DeploymentPlan], *, progress: bool, report: Callable[[str], None]
) -> list[DeploymentPlan]:
    """Return the plans with faster copies in place of model files where there are any: see rewriting.faster_file.

    Which quantisations are slow was measured with the packaged libraries. With another library, nothing is rewritten.
    """

    def faster(plan: LlamaPlan) -> LlamaPlan:
        if plan.engine.requantize == "never" or plan.engine.llama_library not in (None, *PACKAGED_BUILDS):
            return plan
        path = faster_file(plan.model.path, progress=progress, notify=report)
        return msgspec.structs.replace(plan, model=msgspec.structs.replace(plan.model, path=path))

    return [plan.with_llama_engines(faster) for plan in plans]


def _plan_single_model(settings: Settings, *, progress: bool) -> list[DeploymentPlan]:
    if settings.model is not None and settings.model.startswith(URL_BEGINNINGS):
        return _plan_server(settings.model)
    if settings.model == ECHO:
        return [DeploymentPlan(name=ECHO, aliases=(), engines=(EchoPlan(echo=settings.echo),))]
    file = resolve(settings.model, progress=progress)
    kind = _kind(file, settings.engine)
    _check_saved_prefixes(settings.engine, file.id)
    engine = LlamaPlan(
        model=file,
        engine=settings.engine,
        architecture=_architecture(file, kind),
        kind=kind,
        mmproj=_mmproj(settings.engine, file.id),
        images=_image_limits(settings.engine, settings.images),
    )
    return [DeploymentPlan(name=file.id, aliases=file.aliases, engines=(engine,))]


def _plan_server(url: str) -> list[DeploymentPlan]:
    """Plan all models of another server, each under its name there. Raises DeploymentError."""
    from dragoman.engines.upstream.discovery import UpstreamUnreachable, discover_server

    try:
        found = asyncio.run(discover_server(url))
    except UpstreamUnreachable as error:
        raise DeploymentError(f"{url}: {error}") from None
    upstream = UpstreamSettings(url=url, kind=found.kind)
    return [
        DeploymentPlan(name=model.name, aliases=(), engines=(UpstreamPlan(upstream=upstream, model=model.name),))
        for model in found.models
        if model.base is None
    ]


def _plan_deployment(deployment: DeploymentSettings, settings: Settings, *, progress: bool) -> DeploymentPlan:
    model, own_engines = _plan_own_engines(deployment, settings, progress=progress)
    kind = next((each.kind for each in own_engines if isinstance(each, LlamaPlan)), deployment.purpose or "generation")
    model_names = (model.id, *model.aliases) if model else ()
    aliases = dict.fromkeys(name for name in (*deployment.aliases, *model_names) if name != deployment.name)
    return DeploymentPlan(
        name=deployment.name,
        aliases=tuple(aliases),
        dialects=deployment.dialects,
        engines=(*own_engines, *(_plan_upstream(each, deployment.name, kind) for each in deployment.upstreams)),
        routing=RouterOptions(
            policy=deployment.route,
            wait_seconds=deployment.wait_seconds,
            max_waiting=deployment.max_waiting,
            hedge_after=deployment.hedge_after_seconds,
        ),
        attempts=deployment.attempts,
        fallbacks=deployment.fallbacks,
        context_fallbacks=deployment.context_fallbacks,
    )


def _plan_own_engines(
    deployment: DeploymentSettings, settings: Settings, *, progress: bool
) -> tuple[ModelFile | None, tuple[EnginePlan, ...]]:
    """Return the model's file, if there is one, and the plans of the engines of this server."""
    if deployment.model == ECHO:
        echo = EchoPlan(echo=settings.echo, tool_format=deployment.tool_format)
        return None, (echo,) * deployment.replicas
    if deployment.model is None and deployment.upstreams:
        return None, ()
    model = resolve(deployment.model, progress=progress)
    return model, (_plan_llama_engine(model, deployment, settings),) * deployment.replicas


def _plan_upstream(upstream: UpstreamSettings, deployment: str, kind: ModelKind) -> UpstreamPlan:
    if upstream.tokenizer is not None:
        _check_tokenizer(user_path(upstream.tokenizer), deployment)
    return UpstreamPlan(upstream=upstream, model=upstream.model or deployment, kind=kind)


def _check_tokenizer(path: Path, deployment: str) -> None:
    """Load the tokenizer of an upstream as its workers will. Raises DeploymentError."""
    try:
        from dragoman.engines.upstream.local_tokenizer import TokenizerFileError, read_tokenizer
    except ImportError:
        raise DeploymentError(
            f"the tokenizer of an upstream of {deployment} needs the package tokenizers: "
            "pip install 'dragoman[tokenizers]'"
        ) from None
    try:
        read_tokenizer(path)
    except TokenizerFileError as error:
        raise DeploymentError(f"an upstream of {deployment} cannot be used: {error}") from None


def _plan_llama_engine(model: ModelFile, deployment: DeploymentSettings, settings: Settings) -> LlamaPlan:
    engine = msgspec.convert({**msgspec.to_builtins(settings.engine), **deployment.engine}, EngineSettings)
    kind = _kind(model, engine)
    if deployment.purpose not in (None, kind, "embeddings"):
        raise DeploymentError(
            f"the deployment {deployment.name} cannot be for {deployment.purpose}: its model is for {kind}"
        )
    kind = deployment.purpose or kind
    _check_saved_prefixes(engine, deployment.name)
    return LlamaPlan(
        model=model,
        engine=engine,
        tool_format=deployment.tool_format,
        load=deployment.load,
        unload_idle_seconds=deployment.unload_idle_seconds,
        shared_prefixes=_shared_prefixes(deployment),
        architecture=_architecture(model, kind),
        kind=kind,
        dimensions=deployment.dimensions,
        mmproj=_mmproj(engine, deployment.name),
        images=_image_limits(engine, settings.images),
    )


def _check_saved_prefixes(engine: EngineSettings, deployment: str) -> None:
    if engine.max_saved_prefix_bytes and engine.host_cache_tokens == 0:
        raise DeploymentError(
            f"max_saved_prefix_bytes of {deployment} needs host_cache_tokens above 0: prefixes pass through main "
            "memory on their way to and from the disk"
        )


def _mmproj(engine: EngineSettings, deployment: str) -> Path | None:
    if engine.mmproj is None:
        return None
    path = user_path(engine.mmproj)
    if not path.is_file():
        raise DeploymentError(f"mmproj of {deployment} is no file: {path}")
    return path


def _image_limits(engine: EngineSettings, images: ImageSettings) -> ImageLimits | None:
    if engine.mmproj is None:
        return None
    return ImageLimits(max_count=images.max_count, max_bytes=images.max_bytes, max_pixels=images.max_pixels)


def _shared_prefixes(deployment: DeploymentSettings) -> tuple[str, ...]:
    try:
        texts = [_text_or_file(entry) for entry in deployment.shared_prefixes]
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
        raise DeploymentError(f"shared_prefixes of {deployment.name} cannot be read: {reason}") from error
    except UnicodeDecodeError as error:
        raise DeploymentError(f"shared_prefixes of {deployment.name} cannot be read: {error}") from error
    if sum(len(text.encode()) for text in texts) > MAX_SHARED_PREFIX_BYTES:
        raise DeploymentError(
            f"shared_prefixes of {deployment.name} are longer than {MAX_SHARED_PREFIX_BYTES} bytes together"
        )
    return tuple(text for text in texts if text)


def _text_or_file(entry: str) -> str:
    """Return the text, or without its last line break that of the file whose path follows an `@`."""
    if not entry.startswith("@"):
        return entry
    return user_path(entry[1:]).read_text(encoding="utf-8").removesuffix("\n")


def _kind(model: ModelFile, engine: EngineSettings) -> ModelKind:
    check_model_numbers(model.path)
    if engine.embeddings:
        return "embeddings"
    try:
        return model_kind(model.path)
    except ModelSourceError:
        return "generation"  # The engine gives a better reason why the file cannot be served.


def _architecture(model: ModelFile, kind: ModelKind) -> str | None:
    """Return the architecture of the model's adapters. None: it takes none."""
    if kind != "generation":
        return None
    try:
        return architecture(model.path)
    except ModelSourceError:
        return None  # The engine gives a better reason why the file cannot be served.


def _find_base(adapter: AdapterSettings, plans: list[DeploymentPlan]) -> DeploymentPlan:
    if adapter.base is None and len(plans) == 1:
        base = plans[0]
    elif adapter.base is None:
        names = ", ".join(plan.name for plan in plans)
        raise _adapter_error(adapter, f"say in base which deployment it is for: {names}")
    else:
        found = next((plan for plan in plans if adapter.base in plan.names), None)
        if found is None:
            raise _adapter_error(adapter, f"its base {adapter.base} is no deployment")
        base = found
    if base.architecture is None:
        raise _adapter_error(adapter, f"its base {base.name} takes no adapters")
    return base


def _adapter_record(adapter: AdapterSettings, base: DeploymentPlan, *, progress: bool) -> AdapterRecord:
    try:
        source, file = resolve_adapter(adapter.path, progress=progress)
    except ModelSourceError as error:
        raise _adapter_error(adapter, str(error)) from error
    _check_architecture(adapter, file, base)
    served = Adapter(
        name=adapter.name, source=source, created_at=int(time.time()), aliases=adapter.aliases, scale=adapter.scale
    )
    return AdapterRecord(served, str(file.path.absolute()))


def _check_architecture(adapter: AdapterSettings, file: AdapterFile, base: DeploymentPlan) -> None:
    if file.architecture != base.architecture:
        raise _adapter_error(
            adapter,
            f"{file.path.name} is for the architecture {file.architecture}, and {base.name} is {base.architecture}",
        )


def _adapter_error(adapter: AdapterSettings, problem: str) -> DeploymentError:
    return DeploymentError(f"the adapter {adapter.name} cannot be served: {problem}")
