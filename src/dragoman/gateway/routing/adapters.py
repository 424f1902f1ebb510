"""Adapters that clients register: find the file, load it into the model that it fits, serve it under its name."""

import time
from collections.abc import Collection

from dragoman.core.adapters import Adapter, AdapterSource, AdapterSpec, RegisteredAdapter
from dragoman.core.errors import AdapterMissing, BadRequest, Forbidden, ModelNameTaken, ModelNotFound
from dragoman.engines.base import AdapterFile, AdapterHost, AdapterStore
from dragoman.gateway.routing.catalog import Catalog, Deployment


class NoAdapterStore:
    """Implements engines.base.AdapterStore without any adapters."""

    async def find(
        self,
        source: AdapterSource,
        token: str | None,  # noqa: ARG002
        *,
        owner: str = "",  # noqa: ARG002
        registered: Collection[AdapterSource] = (),  # noqa: ARG002
    ) -> AdapterFile:
        raise AdapterMissing(f"Model '{source.name}' is not available: this server has nowhere to look for adapters")


class AdapterRegistrar:
    """Registers adapters with the models of one catalog."""

    def __init__(self, catalog: Catalog, store: AdapterStore) -> None:
        self._catalog = catalog
        self._store = store

    async def register(
        self, spec: AdapterSpec, *, token: str | None, creator: str, owner: str = ""
    ) -> RegisteredAdapter:
        """Serve the adapter to its owner unless it is served already.

        Raises ModelNameTaken, AdapterMissing or BadRequest.
        """
        if (existing := self._find_existing(spec, owner)) is not None:
            return existing
        registered = self._catalog.unfiltered.adapter_sources(owner)
        file = await self._store.find(spec.source, token, owner=owner, registered=registered)
        base, host = self._select_base(file, spec)
        adapter = Adapter(name=spec.name, source=spec.source, created_at=int(time.time()), creator=creator, owner=owner)
        return RegisteredAdapter(await host.add(adapter, file.path), base.name)

    async def unregister(self, name: str, owner: str = "") -> RegisteredAdapter:
        """Stop serving an adapter of the owner. Raises ModelNotFound, and Forbidden for one of the operator's."""
        base, adapter = self._catalog.resolve(name, owner)
        if adapter is None or base.engine.adapters is None:
            raise ModelNotFound(name)
        if adapter.owner != owner:
            raise Forbidden(f"The adapter '{name}' belongs to the server: only its operator may remove it")
        return RegisteredAdapter(await base.engine.adapters.remove(adapter.qualified_name), base.name)

    def _find_existing(self, spec: AdapterSpec, owner: str) -> RegisteredAdapter | None:
        """Return the adapter if it is served already. Raises ModelNameTaken if the name belongs to something else."""
        try:
            base, adapter = self._catalog.unfiltered.resolve(spec.name, owner)
        except ModelNotFound:
            return None
        if adapter is None or adapter.source != spec.source or not self._catalog.contains(base):
            raise ModelNameTaken(spec.name)
        return RegisteredAdapter(adapter, base.name)

    def _select_base(self, file: AdapterFile, spec: AdapterSpec) -> tuple[Deployment, AdapterHost]:
        """Select the requested model, the one that the adapter was made for, or the only one that it may fit."""
        hosts = [(entry, host) for entry in self._catalog.deployments if (host := entry.engine.adapters) is not None]
        if spec.base is not None:
            matching = [(entry, host) for entry, host in hosts if spec.base in (entry.name, *entry.aliases)]
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
