"""The adapters of a deployment with several replicas: each of them has all."""

from collections.abc import Sequence
from pathlib import Path

from dragoman.core.adapters import Adapter
from dragoman.core.errors import DragomanError, ModelNotFound
from dragoman.engines.base import AdapterHost
from dragoman.gateway.routing.replica import Replica


class ReplicatedAdapters:
    """Implements engines.base.AdapterHost over the hosts of all replicas."""

    def __init__(self, hosts: Sequence[AdapterHost]) -> None:
        self._hosts = tuple(hosts)
        self.architecture = hosts[0].architecture

    def list_adapters(self) -> Sequence[Adapter]:
        """Return the adapters that every replica has, oldest first."""
        first, *others = self._hosts
        names = [{adapter.qualified_name for adapter in host.list_adapters()} for host in others]
        return [adapter for adapter in first.list_adapters() if all(adapter.qualified_name in each for each in names)]

    async def add(self, adapter: Adapter, path: Path) -> Adapter:
        loaded = adapter
        for number, host in enumerate(self._hosts):
            try:
                loaded = await host.add(adapter, path)
            except DragomanError:
                for earlier in self._hosts[:number]:
                    await _remove(earlier, adapter.qualified_name)
                raise
        return loaded

    async def remove(self, name: str) -> Adapter:
        removed = [await _remove(host, name) for host in self._hosts]
        found = next((adapter for adapter in removed if adapter is not None), None)
        if found is None:
            raise ModelNotFound(name)
        return found


class AdaptersOfUpstreams:
    """Implements engines.base.AdapterHost over the upstreams of a deployment: each has adapters of its own."""

    architecture = ""

    def __init__(self, hosts: Sequence[AdapterHost]) -> None:
        self._hosts = tuple(hosts)

    def list_adapters(self) -> Sequence[Adapter]:
        """Return the adapters that some replica has."""
        found = {adapter.qualified_name: adapter for host in self._hosts for adapter in host.list_adapters()}
        return tuple(found.values())

    async def add(self, adapter: Adapter, path: Path) -> Adapter:
        return await self._hosts[0].add(adapter, path)

    async def remove(self, name: str) -> Adapter:
        return await self._hosts[0].remove(name)


def adapters_of(replicas: Sequence[Replica]) -> AdapterHost | None:
    """Return the adapters of a deployment with these replicas; None: it supports none.

    Where there are upstreams, it has those that they have loaded; engines of this machine beside them have none.
    """
    if upstreams := [replica for replica in replicas if replica.is_upstream]:
        return AdaptersOfUpstreams([host for each in upstreams if (host := each.engine.adapters) is not None])
    hosts = [host for replica in replicas if (host := replica.engine.adapters) is not None]
    if len(hosts) != len(replicas):
        return None
    return hosts[0] if len(hosts) == 1 else ReplicatedAdapters(hosts)


def has_adapter(host: AdapterHost | None, name: str) -> bool:
    """Whether a replica with these adapters has the one with this qualified name."""
    return host is not None and any(adapter.qualified_name == name for adapter in host.list_adapters())


async def _remove(host: AdapterHost, name: str) -> Adapter | None:
    """Remove the adapter from one replica; None: it has none of this name."""
    try:
        return await host.remove(name)
    except ModelNotFound:
        return None
