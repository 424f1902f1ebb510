"""The catalog of deployments: from model names to engines."""

import contextlib
from collections.abc import Container, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple, Self

import msgspec

from dragoman.core.adapters import Adapter, AdapterSource, metrics_label
from dragoman.core.capabilities import needs_more_than
from dragoman.core.embedding import EmbeddingRequest, ModelKind, TextPair
from dragoman.core.errors import EngineFailed, ModelNotFound
from dragoman.core.models import ServedModel
from dragoman.core.request import GenerationRequest, Prompt
from dragoman.core.tasks import Task
from dragoman.engines.base import AdapterHost, Embeds, Engine
from dragoman.engines.fingerprint import fingerprint
from dragoman.gateway.routing.metrics import RoutingMetrics
from dragoman.gateway.routing.refusals import refusal
from dragoman.gateway.routing.replica import Replica
from dragoman.gateway.routing.replicated_adapters import adapters_of, has_adapter
from dragoman.gateway.routing.router import Router
from dragoman.gateway.routing.router_options import RouterOptions

DEFAULT_ATTEMPTS = 3
"""A request during which an engine died this many times may be the cause. It is not sent again."""


class CountedTokens(NamedTuple):
    """The number of a prompt's tokens."""

    tokens: int
    engine: Engine
    """The one that counted."""


class Deployment(msgspec.Struct, kw_only=True, eq=False):
    """A served model: the names that clients may use, and the engines that answer."""

    name: str
    aliases: tuple[str, ...] = ()
    replicas: tuple[Replica, ...]
    """At least one."""
    dialects: tuple[str, ...] | None = None
    """The dialects that offer it; None: all."""
    max_attempts: int = DEFAULT_ATTEMPTS
    """Attempts to have a request answered, on different replicas where there are several."""
    fallbacks: tuple[str, ...] = ()
    """Names of deployments that answer after all attempts."""
    context_fallbacks: tuple[str, ...] = ()
    """Names of deployments that answer prompts which are too long for this one."""
    routing: RouterOptions = RouterOptions()
    """How a replica is chosen and waited for."""
    router: Router | None = None
    """Chooses the replicas. None: there is nothing to choose, one engine of this machine answers all requests."""
    engines: tuple[Engine, ...] = ()
    """Those of its replicas, by itself."""
    kind: ModelKind = "generation"
    """What its model is for, as its engines say."""
    _described_state: list[tuple[object, ...]] = []
    _description: ServedModel | None = None

    def __post_init__(self) -> None:
        self._set_replicas(self.replicas)
        if len(self.replicas) > 1 or self.replicas[0].is_upstream:
            self.require_router()

    @classmethod
    def of(cls, name: str, aliases: tuple[str, ...], engine: Engine, dialects: tuple[str, ...] | None = None) -> Self:
        """Return a deployment with one replica."""
        return cls(name=name, aliases=aliases, replicas=(Replica(name, engine),), dialects=dialects)

    def require_router(self, metrics: RoutingMetrics | None = None) -> Router:
        """Return the router. If there is none yet, make one that counts with `metrics`."""
        if self.router is None:
            self.router = Router(self.routing)
            self.router.metrics = metrics
            for replica in self.replicas:
                self.router.add(replica, is_new=False)
        return self.router

    def add_replica(self, replica: Replica, metrics: RoutingMetrics | None = None) -> None:
        """Let one more replica answer, whose engine was started."""
        router = self.require_router(metrics)
        self._set_replicas((*self.replicas, replica))
        router.add(replica)

    def remove_replica(self, name: str) -> None:
        """Begin no attempts at a replica any more. It must not be the only one."""
        router = self.require_router()
        self._set_replicas(tuple(replica for replica in self.replicas if replica.name != name))
        assert self.replicas, "a deployment has a replica at least"
        router.remove(name)

    def _set_replicas(self, replicas: tuple[Replica, ...]) -> None:
        self.replicas = replicas
        self.engines = tuple(replica.engine for replica in replicas)
        first = next(iter(self.engines), None)
        self.kind = first.model_kind if isinstance(first, Embeds) else "generation"

    def is_draining(self, name: str) -> bool:
        """Whether its operator lets no attempts begin at a replica."""
        return self.router is not None and self.router.health.state(name) == "draining"

    @property
    def ready(self) -> bool:
        """Whether a request would be served now."""
        return any(engine.ready for engine in self.engines)

    @property
    def failure(self) -> str | None:
        """Why no replica can answer, for the operator. None: one can, or that is not known."""
        failures = [engine.failure for engine in self.engines]
        return failures[0] if all(failure is not None for failure in failures) else None

    @property
    def context_length(self) -> int | None:
        """Tokens of prompt and answer that every replica takes; None until one has reported it."""
        return min((length for engine in self.engines if (length := engine.context_length) is not None), default=None)

    @property
    def fingerprint(self) -> str | None:
        """Changes exactly when answers may. None: not known yet, or replicas differ."""
        first, *others = self.engines
        return first.fingerprint if all(each.fingerprint == first.fingerprint for each in others) else None

    @property
    def supports_reasoning(self) -> bool:
        """Whether the model may reason before it answers."""
        return any(engine.supports_reasoning for engine in self.engines)

    @property
    def tool_format(self) -> str | None:
        """The name of the markup in which the model calls tools. None: not known."""
        return self.engines[0].tool_format

    @property
    def adapters(self) -> AdapterHost | None:
        """None: it does not support adapters."""
        return adapters_of(self.replicas)

    @property
    def embedding_dimensions(self) -> int | None:
        """The values of a whole vector. None: not known yet, or the model is no model for embeddings."""
        engine = self.engines[0]
        return engine.embedding_dimensions if isinstance(engine, Embeds) else None

    @property
    def tokenizer(self) -> Engine:
        """The engine that counts tokens and shows them."""
        return _best_tokenizer(self.engines)

    def tokenizer_for(self, prompt: Prompt) -> Engine:
        """Return the engine that converts this prompt to tokens. Raises BadRequest as `candidates` does."""
        return self._tokenizers_for(prompt)[0]

    async def count_tokens(self, prompt: Prompt) -> CountedTokens:
        """Count the tokens of a prompt by the first engine that can be asked now. Raises core.errors."""
        *others, last = self._tokenizers_for(prompt)
        for engine in others:
            with contextlib.suppress(EngineFailed):
                return CountedTokens(await engine.count_tokens(prompt), engine)
        return CountedTokens(await last.count_tokens(prompt), last)

    def _tokenizers_for(self, prompt: Prompt) -> list[Engine]:
        """Return the engines that count this prompt's tokens, those first that do it best."""
        if self.kind != "generation":
            return [self.tokenizer]
        candidates = self.candidates(GenerationRequest(model=self.name, prompt=prompt))
        if len(candidates) > 1:
            candidates.sort(
                key=lambda replica: (not self._is_ejected(replica), *_exactness(replica.engine)), reverse=True
            )
        return [replica.engine for replica in candidates]

    def _is_ejected(self, replica: Replica) -> bool:
        return self.router is not None and self.router.health.is_ejected(replica.name)

    async def count_input_tokens(self, request: EmbeddingRequest) -> int:
        """Count the tokens of all inputs. Raises core.errors."""
        engine = self.candidates(request)[0].engine
        assert isinstance(engine, Embeds), "candidates compute embeddings"
        return await engine.count_input_tokens(request)

    def candidates(self, request: Task) -> list[Replica]:
        """Return the replicas that can answer the request, in the order in which to try them.

        Raises BadRequest naming what none of them can do.
        """
        able = self.able_replicas(request)
        if not able:
            needed, capabilities = _needed_kind(request), self.engines[0].capabilities
            raise refusal(request, needed, model=self.name, kind=self.kind, capabilities=capabilities)
        return able if len(able) == 1 else sorted(able, key=lambda replica: not replica.engine.ready)

    def served_model(self) -> ServedModel:
        """Describe what it serves, as its engines are now."""
        described = _described if self.kind == "generation" else _described_of_embeddings
        state = [described(engine) for engine in self.engines]
        if self._description is None or state != self._described_state:
            self._described_state, self._description = state, self._describe()
        return self._description

    def _describe(self) -> ServedModel:
        return ServedModel(
            id=self.name,
            aliases=self.aliases,
            context_length=self.context_length,
            fingerprint=self.fingerprint,
            takes_images=any("images" in engine.capabilities for engine in self.engines),
            takes_verbosity=any("verbosity" in engine.capabilities for engine in self.engines),
            supports_reasoning=self.supports_reasoning,
            tool_format=self.tool_format,
            kind=self.kind,
            embedding_dimensions=self.embedding_dimensions,
        )

    def able_replicas(self, request: Task) -> list[Replica]:
        """Return the replicas that can answer the request."""
        if _needed_kind(request) != self.kind:
            return []
        return [replica for replica in self.replicas if _can_answer(replica.engine, request)]


def _best_tokenizer(engines: Sequence[Engine]) -> Engine:
    """Return an engine that counts exactly if there is any, and that is ready."""
    return max(engines, key=_exactness)


def _exactness(engine: Engine) -> tuple[bool, bool]:
    return "exact_token_counts" in engine.capabilities, engine.ready


_DESCRIBED = ("capabilities", "context_length", "fingerprint", "supports_reasoning", "tool_format")
"""What `ServedModel` says of an engine."""

_described, _described_of_embeddings = attrgetter(*_DESCRIBED), attrgetter(*_DESCRIBED, "embedding_dimensions")


def _needed_kind(request: Task) -> ModelKind:
    if isinstance(request, GenerationRequest):
        return "generation"
    return "rerank" if isinstance(request.inputs[0], TextPair) else "embeddings"


def _can_answer(engine: Engine, request: Task) -> bool:
    if not isinstance(request, GenerationRequest):
        return True
    if request.adapter is not None and not has_adapter(engine.adapters, request.adapter):
        return False
    needs_more = needs_more_than(engine.capabilities)
    return needs_more is None or not needs_more(request)


class ResolvedModel(NamedTuple):
    """What a model name resolves to."""

    deployment: Deployment
    adapter: Adapter | None

    @property
    def has_fallbacks(self) -> bool:
        """Whether other deployments may answer instead. An adapter has none: its answers are its own."""
        return self.adapter is None and bool(self.deployment.fallbacks or self.deployment.context_fallbacks)

    @property
    def metrics_label(self) -> str:
        """The name that metrics show: one for all adapters that clients registered."""
        return self.canonical_name if self.adapter is None else metrics_label(self.canonical_name)

    @property
    def canonical_name(self) -> str:
        """The qualified name of the adapter, or else the name of the model, even if the client sent an alias."""
        return self.deployment.name if self.adapter is None else self.adapter.qualified_name

    @property
    def base_model(self) -> str | None:
        """The name of the model that the adapter belongs to. None: this is no adapter."""
        return None if self.adapter is None else self.deployment.name

    @property
    def fingerprint(self) -> str | None:
        """Changes exactly when answers may. None: not known yet."""
        base, adapter = self.deployment.fingerprint, self.adapter
        return base if base is None or adapter is None else fingerprint(base, adapter.digest, adapter.scale)

    def assign(self, request: Task, *, owner: str, priority: int | None = None, is_buffered: bool = False) -> Task:
        """Return the request as it is computed: with the adapter, for an owner, and with another priority if set."""
        if priority is not None and priority != request.priority:
            request = msgspec.structs.replace(request, priority=priority)
        if isinstance(request, GenerationRequest) and (self.adapter is not None or is_buffered):
            adapter = request.adapter if self.adapter is None else self.adapter.qualified_name
            return msgspec.structs.replace(request, owner=owner, adapter=adapter, is_buffered=is_buffered)
        return request if request.owner == owner else msgspec.structs.replace(request, owner=owner)


class Catalog:
    """The deployments in the order of the settings, and the adapters that their engines have now."""

    def __init__(self, deployments: Sequence[Deployment], unfiltered: "Catalog | None" = None) -> None:
        """`unfiltered` is the catalog of all dialects.

        Raises ValueError if two deployments share a name, or if a fallback is no deployment.
        """
        self.deployments = tuple(deployments)
        self.unfiltered = self if unfiltered is None else unfiltered
        self._by_name: dict[str, ResolvedModel] = {}
        for deployment in deployments:
            resolved = ResolvedModel(deployment, None)
            for name in (deployment.name, *deployment.aliases):
                if name in self._by_name:
                    raise ValueError(f"two models are called {name!r}")
                self._by_name[name] = resolved
        names = {deployment.name for deployment in self.unfiltered.deployments}
        for deployment in self.unfiltered.deployments:
            for name in (*deployment.fallbacks, *deployment.context_fallbacks):
                if name not in names:
                    raise ValueError(f"the fallback {name!r} of {deployment.name!r} is no deployment")

    def for_dialect(self, dialect: str) -> "Catalog":
        """Return the catalog of the deployments that a dialect offers."""
        visible = [entry for entry in self.deployments if entry.dialects is None or dialect in entry.dialects]
        return Catalog(visible, self)

    def contains(self, deployment: Deployment) -> bool:
        """Whether the deployment is in this catalog."""
        return any(entry is deployment for entry in self.deployments)

    def resolve(self, model: str, owner: str = "") -> ResolvedModel:
        """Find the model or adapter with this name or alias, compared exactly. Raises ModelNotFound.

        Adapters are the operator's and those of `owner`; without one, the operator's only.
        """
        if (resolved := self._by_name.get(model)) is not None:
            return resolved
        for deployment, adapter in self._adapters():
            if adapter.is_visible_to(owner) and model in (adapter.name, *adapter.aliases):
                return ResolvedModel(deployment, adapter)
        raise ModelNotFound(model)

    def resolve_canonical(self, name: str) -> ResolvedModel:
        """Find the model or adapter with this canonical name or alias, whoever owns it. Raises ModelNotFound."""
        for deployment, adapter in self._adapters():
            if adapter.qualified_name == name:
                return ResolvedModel(deployment, adapter)
        return self.resolve(name)

    def canonical_names(self) -> list[str]:
        """List the canonical names of all models, then those of all owners' adapters."""
        adapters = [adapter.qualified_name for _, adapter in self._adapters()]
        return [*(deployment.name for deployment in self.deployments), *adapters]

    def adapter_sources(self, owner: str) -> set[AdapterSource]:
        """Return where the owner's adapters come from."""
        return {adapter.source for _, adapter in self._adapters() if adapter.owner == owner}

    def models(self, owner: str = "", allowed: Container[str] | None = None) -> list[ServedModel]:
        """List models, then the operator's adapters and those of `owner`.

        `allowed`: only those with these canonical names. None: all.
        """
        bases = {deployment.name: deployment.served_model() for deployment in self.deployments}
        adapters = [
            _adapter_model(bases[deployment.name], ResolvedModel(deployment, adapter))
            for deployment, adapter in self._adapters()
            if adapter.is_visible_to(owner) and (allowed is None or adapter.qualified_name in allowed)
        ]
        return [*(model for model in bases.values() if allowed is None or model.id in allowed), *adapters]

    def find_model(self, name: str, owner: str = "", allowed: Container[str] | None = None) -> ServedModel | None:
        """Return what `models` would list of the model with this name or alias."""
        try:
            resolved = self.resolve(name, owner)
        except ModelNotFound:
            return None
        if allowed is not None and resolved.canonical_name not in allowed:
            return None
        base = resolved.deployment.served_model()
        return base if resolved.adapter is None else _adapter_model(base, resolved)

    def _adapters(self) -> Iterator[tuple[Deployment, Adapter]]:
        for deployment in self.deployments:
            if (host := deployment.adapters) is not None:
                for adapter in host.list_adapters():
                    yield deployment, adapter


def _adapter_model(base: ServedModel, resolved: ResolvedModel) -> ServedModel:
    assert resolved.adapter is not None, "only adapters are described by their models"
    return msgspec.structs.replace(
        base,
        id=resolved.adapter.name,
        aliases=resolved.adapter.aliases,
        fingerprint=resolved.fingerprint,
        base=base.id,
        created_at=resolved.adapter.created_at,
    )
