"""Adapters that clients register: find the file, load it into the model that it fits, serve it under its name."""

import math
import time
from collections import OrderedDict, deque
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager, nullcontext

from dragoman.core.adapters import Adapter, AdapterSource, AdapterSpec, RegisteredAdapter, too_many_adapters
from dragoman.core.bounded_dicts import put_last
from dragoman.core.errors import (
    AdapterMissing,
    BadRequest,
    Forbidden,
    Limited,
    ModelNameTaken,
    ModelNotFound,
)
from dragoman.engines.base import AdapterFile, AdapterHost, AdapterStore
from dragoman.gateway.routing.catalog import Catalog, Deployment

_WINDOW_SECONDS = 60.0

_MAX_OWNERS = 10_000
"""Owners whose registrations are remembered; beyond it, those who registered longest ago are forgotten."""


class NoAdapterStore:
    """Implements engines.base.AdapterStore without any adapters."""

    def registering(self, owner: str) -> AbstractAsyncContextManager[None]:  # noqa: ARG002
        return nullcontext()

    async def find(
        self,
        source: AdapterSource,
        token: str | None,  # noqa: ARG002
        *,
        owner: str = "",  # noqa: ARG002
        registered: Collection[AdapterSource] = (),  # noqa: ARG002
    ) -> AdapterFile:
        raise AdapterMissing(f"Model '{source.name}' is not available: this server has nowhere to look for adapters")


class RegistrationRules:
    """Whether clients may register adapters, and each owner's limits.

    The limits hold before an adapter is searched or downloaded: both take time that others wait for.
    """

    def __init__(
        self, *, allowed: bool = True, max_adapters: int | None = None, max_per_minute: int | None = None
    ) -> None:
        """`max_adapters` are those of one model. None: no limit."""
        self._allowed = allowed
        self._max_adapters = max_adapters
        self._max_per_minute = max_per_minute
        self._times: OrderedDict[str, deque[float]] = OrderedDict()
        """When each owner registered adapters in the last minute."""

    def require_allowed(self) -> None:
        """Raise Forbidden if clients may register nothing."""
        if not self._allowed:
            raise Forbidden("This server's operator registers its adapters; clients may not")

    def count(self, owner: str, owned: Collection[int]) -> None:
        """Count a registration of an owner that has this many adapters of each model it may choose.

        Raises BadRequest or Limited.
        """
        if not owner:  # The server has no keys: all callers are its operator.
            return
        if self._max_adapters is not None and owned and min(owned) >= self._max_adapters:
            raise too_many_adapters(min(owned))
        if self._max_per_minute is not None:
            self._count_in_minute(owner, self._max_per_minute, time.monotonic())

    def _count_in_minute(self, owner: str, limit: int, now: float) -> None:
        times = put_last(self._times, owner, self._times.get(owner) or deque(), _MAX_OWNERS)
        while times and times[0] <= now - _WINDOW_SECONDS:
            times.popleft()
        if len(times) >= limit:
            retry_after = math.ceil((times[0] if times else now) + _WINDOW_SECONDS - now)
            raise Limited(f"Limit of {limit} registered adapters per minute reached", retry_after)
        times.append(now)


class AdapterRegistrar:
    """Registers adapters with the models of one catalog."""

    def __init__(self, catalog: Catalog, store: AdapterStore, rules: RegistrationRules | None = None) -> None:
        """`rules` of None are none."""
        self._catalog = catalog
        self._store = store
        self._rules = rules or RegistrationRules()

    async def register(
        self, spec: AdapterSpec, *, token: str | None, creator: str, owner: str = ""
    ) -> RegisteredAdapter:
        """Serve the adapter to its owner unless it is served already.

        Raises ModelNameTaken, AdapterMissing, BadRequest, Limited or Overloaded.
        """
        if (existing := self._find_existing(spec, owner)) is not None:
            return existing
        self._rules.count(owner, [_count_owned(host, owner) for entry, host in self._hosts() if _fits(entry, spec)])
        async with self._store.registering(owner):
            registered = self._catalog.unfiltered.adapter_sources(owner)
            file = await self._store.find(spec.source, token, owner=owner, registered=registered)
            base, host = self._select_base(file, spec)
            created_at = int(time.time())
            adapter = Adapter(name=spec.name, source=spec.source, created_at=created_at, creator=creator, owner=owner)
            return RegisteredAdapter(await host.add(adapter, file.path), base.name)

    async def unregister(self, name: str, owner: str = "") -> RegisteredAdapter:
        """Stop serving an adapter of the owner. Raises ModelNotFound, and Forbidden for one of the operator's."""
        base, adapter = self._catalog.resolve(name, owner)
        if adapter is None or base.adapters is None:
            raise ModelNotFound(name)
        if adapter.owner != owner:
            raise Forbidden(f"The adapter '{name}' belongs to the server: only its operator may remove it")
        return RegisteredAdapter(await base.adapters.remove(adapter.qualified_name), base.name)

    def _find_existing(self, spec: AdapterSpec, owner: str) -> RegisteredAdapter | None:
        """Return the adapter if it is served already. Raises ModelNameTaken if the name belongs to something else."""
        try:
            base, adapter = self._catalog.unfiltered.resolve(spec.name, owner)
        except ModelNotFound:
            return None
        if adapter is None or adapter.source != spec.source or not self._catalog.contains(base):
            raise ModelNameTaken(spec.name)
        return RegisteredAdapter(adapter, base.name)

    def _hosts(self) -> list[tuple[Deployment, AdapterHost]]:
        """List the models that take adapters. Other servers load theirs themselves."""
        hosts = [(entry, entry.adapters) for entry in self._catalog.deployments]
        return [(entry, host) for entry, host in hosts if host is not None and host.architecture]

    def _select_base(self, file: AdapterFile, spec: AdapterSpec) -> tuple[Deployment, AdapterHost]:
        """Select the requested model, the one that the adapter was made for, or the only one that it may fit."""
        hosts = self._hosts()
        if spec.base is not None:
            matching = [(entry, host) for entry, host in hosts if _fits(entry, spec)]
            if not matching:
                raise BadRequest(f"The base model '{spec.base}' is not served, or takes no adapters", "base_model_name")
            return matching[0]
        same_architecture = [(entry, host) for entry, host in hosts if host.architecture == file.architecture]
        intended = [
            (entry, host)
            for entry, host in same_architecture
            if not {entry.name, *entry.aliases}.isdisjoint(file.bases)
        ]
        candidates = intended or same_architecture
        if not candidates:
            raise BadRequest(
                f"The base model of '{spec.source.name}' is not served: no model here is of the architecture "
                f"'{file.architecture}'",
                "model_name",
            )
        if len(candidates) > 1:
            names = ", ".join(entry.name for entry, _ in candidates)
            raise BadRequest(
                f"'{spec.source.name}' may belong to several models; say which in 'base_model_name': {names}",
                "base_model_name",
            )
        return candidates[0]


def _fits(deployment: Deployment, spec: AdapterSpec) -> bool:
    """Whether the client wants the adapter for this model, or for any."""
    return spec.base is None or spec.base in (deployment.name, *deployment.aliases)


def _count_owned(host: AdapterHost, owner: str) -> int:
    return sum(adapter.owner == owner for adapter in host.list_adapters())
