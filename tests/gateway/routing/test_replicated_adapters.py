"""Adapters of deployments with several replicas."""

from pathlib import Path

import msgspec
import pytest

from dragoman.core.adapters import Adapter, AdapterSource
from dragoman.core.errors import BadRequest, ModelNotFound
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.routing.catalog import Deployment
from dragoman.gateway.routing.replica import Replica
from dragoman.gateway.routing.replicated_adapters import ReplicatedAdapters
from tests.support.echo_engines import AdaptableEcho, InMemoryAdapterHost

PIRATE = Adapter(name="pirate", source=AdapterSource("hub", "acme/pirate"), created_at=0)
FILE = Path("pirate.gguf")
LOADED = msgspec.structs.replace(PIRATE, digest="digest of pirate.gguf")


class FullHost(InMemoryAdapterHost):
    """Takes no adapter."""

    async def add(self, adapter: Adapter, path: Path) -> Adapter:
        raise BadRequest(f"There is no room for {adapter.name} in {path}", "name")


async def test_an_adapter_is_added_to_every_replica_and_removed_from_all() -> None:
    hosts = [InMemoryAdapterHost("llama") for _ in range(3)]
    adapters = ReplicatedAdapters(hosts)
    assert await adapters.add(PIRATE, FILE) == LOADED
    assert [adapters.list_adapters(), *(host.list_adapters() for host in hosts)] == [[LOADED]] * 4
    assert await adapters.remove("pirate") == LOADED
    assert [adapters.list_adapters(), *(host.list_adapters() for host in hosts)] == [[]] * 4
    with pytest.raises(ModelNotFound):
        await adapters.remove("pirate")


async def test_an_adapter_that_one_replica_refuses_stays_in_none() -> None:
    first, full = InMemoryAdapterHost("llama"), FullHost("llama")
    with pytest.raises(BadRequest):
        await ReplicatedAdapters([first, full]).add(PIRATE, FILE)
    assert not first.list_adapters()


async def test_an_adapter_that_only_some_replicas_have_is_not_offered_and_can_be_removed() -> None:
    first, second = InMemoryAdapterHost("llama"), InMemoryAdapterHost("llama")
    await second.add(PIRATE, FILE)
    adapters = ReplicatedAdapters([first, second])
    assert not adapters.list_adapters()
    assert await adapters.remove("pirate") == LOADED


def test_a_deployment_takes_adapters_only_if_all_replicas_do() -> None:
    def deployment(*engines: EchoEngine) -> Deployment:
        return Deployment(name="m", replicas=tuple(Replica(str(number), each) for number, each in enumerate(engines)))

    assert deployment(AdaptableEcho(), AdaptableEcho()).adapters is not None
    assert deployment(AdaptableEcho(), EchoEngine()).adapters is None
