"""Adapters that clients register, with engines that only record them."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dragoman.core.adapters import Adapter, AdapterSource, AdapterSpec, RegisteredAdapter
from dragoman.core.errors import AdapterMissing, BadRequest, Limited, ModelNameTaken, ModelNotFound
from dragoman.engines.base import AdapterFile
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.routing.adapters import AdapterRegistrar, NoAdapterStore, RegistrationRules
from dragoman.gateway.routing.catalog import Catalog, Deployment
from tests.support.echo_engines import INCOMPATIBLE_FILE, AdaptableEcho

PIRATE = AdapterSource("local", "pirate")
POET = AdapterSource("hub", "acme/poet", "v2")


class FakeAdapterStore:
    """Implements engines.base.AdapterStore: adapters for a few architectures and bases."""

    def __init__(self) -> None:
        self.tokens: list[str | None] = []
        self.registered: list[tuple[str, set[AdapterSource]]] = []
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def registering(self, owner: str) -> AsyncIterator[None]:
        async with self._lock:
            yield

    async def find(
        self, source: AdapterSource, token: str | None, *, owner: str = "", registered: Collection[AdapterSource] = ()
    ) -> AdapterFile:
        self.tokens.append(token)
        self.registered.append((owner, set(registered)))
        await asyncio.sleep(0)
        match source.name:
            case "absent":
                raise AdapterMissing("Model 'absent' is not in the adapter folder")
            case "for-qwen":
                return AdapterFile(Path("qwen.gguf"), "qwen2", ())
            case "for-second":
                return AdapterFile(Path("second.gguf"), "llama", ("Other", "acme/second"))
            case "unfit":
                return AdapterFile(Path(INCOMPATIBLE_FILE), "llama", ())
        return AdapterFile(Path(f"{source.name}.gguf"), "llama", ("acme/unknown",))


class AdapterHarness:
    """Models, and a registrar for their adapters."""

    def __init__(self, *architectures: str | None) -> None:
        names = ["first", "second", "third"]
        self.store = FakeAdapterStore()
        self.catalog = Catalog(
            [
                Deployment.of(name, (f"acme/{name}",), AdaptableEcho(architecture) if architecture else EchoEngine())
                for name, architecture in zip(names, architectures, strict=False)
            ]
        )
        self.registrar = AdapterRegistrar(self.catalog, self.store)

    async def register(self, name: str, source: AdapterSource, base: str | None = None) -> RegisteredAdapter:
        return await self.registrar.register(AdapterSpec(name, source, base), token="secret", creator="me")


async def test_an_adapter_is_served_by_the_only_compatible_model() -> None:
    harness, before = AdapterHarness(None, "qwen2", "llama"), int(time.time())
    registered = await harness.register("pirate", PIRATE)
    adapter = registered.adapter
    assert (registered.base, adapter.name, adapter.source, adapter.creator) == ("third", "pirate", PIRATE, "me")
    assert before <= adapter.created_at <= time.time()
    assert harness.catalog.resolve("pirate") == (harness.catalog.deployments[2], adapter)
    assert harness.store.tokens == ["secret"]


async def test_the_model_an_adapter_was_made_for_is_preferred() -> None:
    harness = AdapterHarness("llama", "llama")
    assert (await harness.register("it", AdapterSource("local", "for-second"))).base == "second"


@pytest.mark.parametrize("base", ["second", "acme/second"])
async def test_the_client_may_select_the_model_of_an_adapter(base: str) -> None:
    assert (await AdapterHarness("llama", "llama").register("it", PIRATE, base)).base == "second"


async def test_several_models_that_an_adapter_may_be_for_are_named() -> None:
    with pytest.raises(BadRequest, match="'base_model_name': first, third") as caught:
        await AdapterHarness("llama", "qwen2", "llama").register("it", PIRATE)
    assert caught.value.parameter == "base_model_name"


@pytest.mark.parametrize("architectures", [("llama",), (None,), ()])
async def test_an_adapter_whose_model_is_not_served_is_refused(architectures: tuple[str | None, ...]) -> None:
    with pytest.raises(BadRequest, match="is not served: no model here is of the architecture 'qwen2'") as caught:
        await AdapterHarness(*architectures).register("it", AdapterSource("local", "for-qwen"))
    assert caught.value.parameter == "model_name"


@pytest.mark.parametrize("base", ["unknown", "first"])
async def test_a_base_that_is_not_served_or_takes_no_adapters_is_refused(base: str) -> None:
    with pytest.raises(BadRequest, match=f"'{base}' is not served, or takes no adapters"):
        await AdapterHarness(None, "llama").register("it", PIRATE, base)


async def test_registering_the_same_adapter_again_searches_for_no_file() -> None:
    harness = AdapterHarness("llama")
    first = await harness.register("pirate", PIRATE)
    assert await harness.register("pirate", PIRATE) == first
    assert len(harness.store.tokens) == 1


async def test_an_owner_with_enough_adapters_makes_the_server_search_and_download_nothing() -> None:
    harness = AdapterHarness("llama", "llama")
    registrar = AdapterRegistrar(harness.catalog, harness.store, RegistrationRules(max_adapters=1))

    async def register(name: str, base: str | None, owner: str = "account 1") -> None:
        await registrar.register(AdapterSpec(name, PIRATE, base), token=None, creator="", owner=owner)

    await register("a", "first")
    for name, base in (("b", "first"), ("b", "acme/first")):
        with pytest.raises(BadRequest, match="You have 1 adapters of this model already"):
            await register(name, base)
    await register("b", "second")
    with pytest.raises(BadRequest, match="You have 1 adapters"):
        await register("c", None)
    await register("c", "first", owner="account 2")
    assert harness.store.registered == [("account 1", set()), ("account 1", {PIRATE}), ("account 2", set())]


async def test_adapters_that_one_owner_registers_together_know_of_each_other() -> None:
    harness = AdapterHarness("llama")
    specs = [AdapterSpec("pirate", PIRATE), AdapterSpec("poet", POET)]
    await asyncio.gather(
        *(harness.registrar.register(spec, token=None, creator="", owner="account 1") for spec in specs)
    )
    assert harness.store.registered == [("account 1", set()), ("account 1", {PIRATE})], "or its file would be deleted"


async def test_an_owner_may_register_so_many_adapters_in_a_minute() -> None:
    harness = AdapterHarness("llama")
    registrar = AdapterRegistrar(harness.catalog, harness.store, RegistrationRules(max_per_minute=2))
    for owner in ("account 1", "account 2", ""):
        for _ in range(2):
            await registrar.register(AdapterSpec("a", PIRATE), token=None, creator="", owner=owner)
            await registrar.unregister("a", owner)
    with pytest.raises(Limited, match="2 registered adapters per minute") as caught:
        await registrar.register(AdapterSpec("a", PIRATE), token=None, creator="", owner="account 1")
    assert 0 < caught.value.retry_after <= 60
    await registrar.register(AdapterSpec("a", PIRATE), token=None, creator="")


@pytest.mark.parametrize("name", ["first", "acme/first", "pirate"])
async def test_a_name_already_in_use_is_refused(name: str) -> None:
    harness = AdapterHarness("llama")
    await harness.register("pirate", PIRATE)
    with pytest.raises(ModelNameTaken, match=f"A model named '{name}' already exists"):
        await harness.register(name, POET)


async def test_a_name_is_taken_also_where_the_dialect_does_not_show_it() -> None:
    hidden = Deployment.of("hidden", (), AdaptableEcho(), ("scale",))
    shown = Deployment.of("shown", (), AdaptableEcho())
    catalog = Catalog([hidden, shown])
    scale = AdapterRegistrar(catalog.for_dialect("scale"), FakeAdapterStore())
    empower = AdapterRegistrar(catalog.for_dialect("empower"), FakeAdapterStore())
    await scale.register(AdapterSpec("pirate", PIRATE, "hidden"), token=None, creator="")
    for spec in (AdapterSpec("hidden", POET), AdapterSpec("pirate", PIRATE)):
        with pytest.raises(ModelNameTaken):
            await empower.register(spec, token=None, creator="")
    with pytest.raises(ModelNotFound):
        await empower.unregister("pirate")


@pytest.mark.parametrize(("source", "error"), [("absent", AdapterMissing), ("unfit", BadRequest)])
async def test_a_missing_or_incompatible_adapter_is_not_served(source: str, error: type[Exception]) -> None:
    harness = AdapterHarness("llama")
    with pytest.raises(error):
        await harness.register("it", AdapterSource("local", source))
    assert [model.id for model in harness.catalog.models()] == ["first"]


async def test_without_a_store_there_are_no_adapters() -> None:
    with pytest.raises(AdapterMissing, match="'acme/poet' is not available"):
        await NoAdapterStore().find(POET, None)


async def test_the_name_of_a_removed_adapter_can_be_reused() -> None:
    harness = AdapterHarness("llama")
    registered = await harness.register("pirate", PIRATE)
    assert await harness.registrar.unregister("pirate") == registered
    with pytest.raises(ModelNotFound):
        harness.catalog.resolve("pirate")
    assert (await harness.register("pirate", POET)).adapter.source == POET


@pytest.mark.parametrize("name", ["first", "unknown"])
async def test_only_adapters_can_be_removed(name: str) -> None:
    with pytest.raises(ModelNotFound):
        await AdapterHarness("llama").registrar.unregister(name)


async def test_adapters_are_listed_after_the_models_with_their_base() -> None:
    harness = AdapterHarness("llama", "qwen2")
    engine = harness.catalog.deployments[0].engines[0]
    assert isinstance(engine, AdaptableEcho)
    engine.adapter_host.by_name["calm"] = Adapter(name="calm", source=PIRATE, created_at=17, aliases=("still",))
    listed = harness.catalog.models()
    assert [(model.id, model.base, model.created_at) for model in listed] == [
        ("first", None, None),
        ("second", None, None),
        ("calm", "first", 17),
    ]
    assert listed[2].aliases == ("still",)
    assert listed[2].context_length == engine.context_length
    assert harness.catalog.resolve("still").deployment.name == "first"


@pytest.mark.parametrize(("owner", "allowed"), [("", None), ("mine", None), ("other", None), ("mine", {"first"})])
def test_a_model_is_found_by_each_of_its_names_exactly_if_it_is_listed(owner: str, allowed: set[str] | None) -> None:
    catalog = AdapterHarness("llama", "qwen2").catalog
    engine = catalog.deployments[0].engines[0]
    assert isinstance(engine, AdaptableEcho)
    for adapter in (
        Adapter(name="calm", source=PIRATE, created_at=1, aliases=("still",)),
        Adapter(name="my", source=POET, created_at=2, owner="mine"),
    ):
        engine.adapter_host.by_name[adapter.name] = adapter
    listed = {name: model for model in catalog.models(owner, allowed) for name in (model.id, *model.aliases)}
    for name in ("first", "acme/first", "second", "acme/second", "calm", "still", "my", "First", "first ", "unknown"):
        assert catalog.find_model(name, owner, allowed) == listed.get(name)
