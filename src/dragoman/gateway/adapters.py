"""Adapters that clients bring: found, given to the model they fit, served under their name."""

import time

from dragoman.core.adapters import Adapter, AdapterOrder, AdapterSource, RegisteredAdapter
from dragoman.core.errors import AdapterMissing, BadRequest, ModelNotFound, NameTaken
from dragoman.engines.base import AdapterFile, AdapterHost, AdapterStore
from dragoman.gateway.catalog import Catalog, Deployment


class NoAdapterStore:
    """Implements engines.base.AdapterStore: nothing is there."""

    async def find(self, source: AdapterSource, token: str | None) -> AdapterFile:  # noqa: ARG002
        raise AdapterMissing(f"Model '{source.name}' is not available: this server has nowhere to look for adapters")


class AdapterDesk:
    """Registers adapters with the models of one catalog."""

    def __init__(self, catalog: Catalog, store: AdapterStore) -> None:
        self._catalog = catalog
        self._store = store

    async def register(self, order: AdapterOrder, *, token: str | None, creator: str) -> RegisteredAdapter:
        """Serve the adapter; as it is already served, if it is. Raises NameTaken, AdapterMissing or BadRequest."""
        if (known := self._known(order)) is not None:
            return known
        file = await self._store.find(order.source, token)
        base, host = self._base(file, order)
        adapter = Adapter(order.name, order.source, created_at=int(time.time()), creator=creator)
        return RegisteredAdapter(await host.add(adapter, file.path), base.name)

    async def unregister(self, name: str) -> RegisteredAdapter:
        """Serve it no longer. Raises ModelNotFound."""
        base, adapter = self._catalog.resolve(name)
        if adapter is None or base.engine.adapters is None:
            raise ModelNotFound(name)
        return RegisteredAdapter(await base.engine.adapters.remove(adapter.name), base.name)

    def _known(self, order: AdapterOrder) -> RegisteredAdapter | None:
        """What has the name already, if it is what is wanted. Raises NameTaken if it is not."""
        try:
            base, adapter = self._catalog.whole.resolve(order.name)
        except ModelNotFound:
            return None
        if adapter is None or adapter.source != order.source or not self._catalog.shows(base):
            raise NameTaken(order.name)
        return RegisteredAdapter(adapter, base.name)

    def _base(self, file: AdapterFile, order: AdapterOrder) -> tuple[Deployment, AdapterHost]:
        """The model to load it into: the one asked for, the one it was made for, or the only one it may fit."""
        hosts = [(entry, host) for entry in self._catalog.deployments if (host := entry.engine.adapters) is not None]
        if order.base is not None:
            fitting = [(entry, host) for entry, host in hosts if order.base in (entry.name, *entry.aliases)]
            if not fitting:
                raise BadRequest(
                    f"The base model '{order.base}' is not served, or takes no adapters", "base_model_name"
                )
            return fitting[0]
        alike = [(entry, host) for entry, host in hosts if host.architecture == file.architecture]
        meant = [(entry, host) for entry, host in alike if not {entry.name, *entry.aliases}.isdisjoint(file.bases)]
        found = meant or alike
        if not found:
            raise BadRequest(
                f"The base model of '{order.source.name}' is not served: no model here is of the architecture "
                f"'{file.architecture}'",
                "model_name",
            )
        if len(found) > 1:
            names = ", ".join(entry.name for entry, _ in found)
            raise BadRequest(
                f"'{order.source.name}' may belong to several models; say which in 'base_model_name': {names}",
                "base_model_name",
            )
        return found[0]
