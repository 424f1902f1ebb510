"""The adapters of an engine process, with the simulated model."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dragoman.core.adapters import Adapter, AdapterSource
from dragoman.core.errors import BadRequest, ModelNameTaken, ModelNotFound
from dragoman.engines.llama.batching.batcher import Batcher
from dragoman.engines.llama.native.backend import NO_ADAPTER
from dragoman.engines.llama.native.model import ModelError
from dragoman.engines.llama.process.served_adapters import AdapterManager
from dragoman.engines.llama.process.stepper import Stepper
from dragoman.engines.llama.wire.adapter_registry import AdapterRecord, read_registry, write_registry
from tests.support.simulated_backend import SimulatedBackend, SimulatedVocabulary

CONTENT = b"an adapter"


def record(folder: Path, name: str, *, digest: str = "", source: str = "", owner: str = "") -> AdapterRecord:
    """Write an adapter file and return its record."""
    path = folder / f"{name}.gguf"
    path.write_bytes(CONTENT)
    origin = AdapterSource("local", source or name)
    return AdapterRecord(Adapter(name=name, source=origin, created_at=17, digest=digest, owner=owner), str(path))


@contextlib.asynccontextmanager
async def stepping(backend: SimulatedBackend) -> AsyncIterator[Stepper]:
    """Run the working thread of an engine that only loads adapters."""
    batcher = Batcher(backend, SimulatedVocabulary(), max_sequences=1, max_batched_tokens=16, host_cache_tokens=0)
    stepper = Stepper(batcher, max_sequences=1, max_waiting=1, publish=lambda published: None)
    thread = asyncio.create_task(asyncio.to_thread(stepper.run))
    try:
        yield stepper
    finally:
        stepper.stop()
        await thread


async def test_a_registered_adapter_has_a_number_a_digest_and_a_place_in_the_registry(tmp_path: Path) -> None:
    registry, backend = tmp_path / "registry.json", SimulatedBackend(64)
    served = AdapterManager(registry, max_adapters=2)
    async with stepping(backend) as stepper:
        added = await served.add(record(tmp_path, "pirate"), stepper)
        assert added.adapter.digest == hashlib.sha256(CONTENT).hexdigest()
        assert read_registry(registry) == [added]
        assert backend.adapters == {served.number_of("pirate")}
        assert await served.remove("pirate", stepper) == added
        assert read_registry(registry) == []
    assert backend.adapters == set()
    assert served.number_of(None) == NO_ADAPTER
    with pytest.raises(ModelNotFound):
        served.number_of("pirate")


async def test_the_same_adapter_is_loaded_once_however_many_ask_for_it_together(tmp_path: Path) -> None:
    backend, wanted = SimulatedBackend(64), record(tmp_path, "pirate")
    served = AdapterManager(tmp_path / "registry.json", max_adapters=2)
    async with stepping(backend) as stepper:
        answers = await asyncio.gather(*(served.add(wanted, stepper) for _ in range(8)))
        assert answers == [answers[0]] * 8
        with pytest.raises(ModelNameTaken):
            await served.add(record(tmp_path, "pirate", source="another"), stepper)
    assert len(backend.adapters) == 1


async def test_no_more_than_max_adapters_are_loaded(tmp_path: Path) -> None:
    backend, served = SimulatedBackend(64), AdapterManager(tmp_path / "registry.json", max_adapters=2)
    async with stepping(backend) as stepper:
        for name in ("a", "b"):
            await served.add(record(tmp_path, name), stepper)
        with pytest.raises(BadRequest, match="has 2 adapters already; remove one"):
            await served.add(record(tmp_path, "c"), stepper)
        await served.remove("a", stepper)
        await served.add(record(tmp_path, "c"), stepper)


async def test_no_owner_has_more_than_its_share_of_the_adapters(tmp_path: Path) -> None:
    served = AdapterManager(tmp_path / "registry.json", max_adapters=4, max_adapters_per_owner=2)
    async with stepping(SimulatedBackend(64)) as stepper:
        for name in ("a", "b"):
            await served.add(record(tmp_path, name, owner="account 1"), stepper)
        with pytest.raises(BadRequest, match="You have 2 adapters of this model already; remove one"):
            await served.add(record(tmp_path, "c", owner="account 1"), stepper)
        await served.remove("account 1/a", stepper)
        await served.add(record(tmp_path, "c", owner="account 1"), stepper)
        for name in ("d", "e"):
            await served.add(record(tmp_path, name), stepper)
        with pytest.raises(BadRequest, match="This model has 4 adapters already"):
            await served.add(record(tmp_path, "a", owner="account 2"), stepper)


async def test_adapters_of_two_owners_may_have_the_same_name(tmp_path: Path) -> None:
    registry, backend = tmp_path / "registry.json", SimulatedBackend(64)
    served = AdapterManager(registry, max_adapters=4)
    async with stepping(backend) as stepper:
        await served.add(record(tmp_path, "calm"), stepper)
        owners = ("account 1", "account 2")
        added = [await served.add(record(tmp_path, "pirate", source=owner, owner=owner), stepper) for owner in owners]
        assert served.number_of("account 1/pirate") != served.number_of("account 2/pirate")
        for name in ("pirate", "account 3/pirate"):
            with pytest.raises(ModelNotFound):
                served.number_of(name)
        with pytest.raises(ModelNameTaken):
            await served.add(record(tmp_path, "calm", source="another", owner="account 1"), stepper)
        assert await served.remove("account 1/pirate", stepper) == added[0]
    assert read_registry(registry)[1:] == [added[1]]
    restored = AdapterManager(registry, max_adapters=4)
    restored.restore(SimulatedBackend(64))
    assert restored.number_of("account 2/pirate") != restored.number_of("calm")


async def test_a_vanished_file_is_reported_by_its_name(tmp_path: Path) -> None:
    served = AdapterManager(tmp_path / "registry.json", max_adapters=2)
    wanted = AdapterRecord(
        Adapter(name="pirate", source=AdapterSource("local", "pirate"), created_at=17), str(tmp_path / "pirate.gguf")
    )
    async with stepping(SimulatedBackend(64)) as stepper:
        with pytest.raises(BadRequest, match=r"^pirate\.gguf cannot be read: No such file") as caught:
            await served.add(wanted, stepper)
    assert caught.value.parameter == "model_name"


def test_a_new_process_serves_what_the_last_one_did_but_for_files_that_are_gone(tmp_path: Path) -> None:
    registry, backend = tmp_path / "registry.json", SimulatedBackend(64)
    records = [record(tmp_path, name, digest="known") for name in ("a", "gone", "b")]
    write_registry(registry, records)
    (tmp_path / "gone.gguf").unlink()
    served = AdapterManager(registry, max_adapters=8)
    served.restore(backend)
    assert [entry.adapter.name for entry in read_registry(registry)] == ["a", "b"]
    assert backend.adapters == {served.number_of("a"), served.number_of("b")}
    with pytest.raises(ModelNotFound):
        served.number_of("gone")


def test_an_adapter_of_the_settings_that_cannot_be_loaded_stops_the_start(tmp_path: Path) -> None:
    registry = tmp_path / "registry.json"
    write_registry(registry, [record(tmp_path, "pirate")])
    (tmp_path / "pirate.gguf").unlink()
    with pytest.raises(ModelError, match="the adapter pirate cannot be served: "):
        AdapterManager(registry, max_adapters=8).restore(SimulatedBackend(64))


async def test_a_registry_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    backend, folder = SimulatedBackend(64), tmp_path / "runtime"
    folder.mkdir()
    registry = folder / "registry.json"
    served = AdapterManager(registry, max_adapters=4)
    async with stepping(backend) as stepper:
        await served.add(record(tmp_path, "pirate"), stepper)
        (folder / "registry.new").mkdir()  # where the new content is written first
        for change in (served.add(record(tmp_path, "poet"), stepper), served.remove("pirate", stepper)):
            with pytest.raises(OSError, match="Is a directory"):
                await change
        with pytest.raises(ModelNotFound):
            served.number_of("poet")
        (folder / "registry.new").rmdir()
        poet = await served.add(record(tmp_path, "poet"), stepper)
        assert [each.adapter.name for each in read_registry(registry)] == ["pirate", "poet"]
        assert (await served.remove("pirate", stepper)).adapter.name == "pirate"
        assert read_registry(registry) == [poet]
    assert backend.adapters == {served.number_of("poet")}
