"""The registry as HTTP workers read it."""

from pathlib import Path

from dragoman.engines.llama.wire.adapter_registry import registry_path, write_registry
from dragoman.engines.llama.worker.adapters import AdapterRegistryReader
from tests.support.adapters import adapter_record


def test_a_written_registry_is_read_by_all_readers(tmp_path: Path) -> None:
    path = registry_path(tmp_path / "engine-0.sock")
    readers = [AdapterRegistryReader(path), AdapterRegistryReader(path)]
    assert [reader.adapters() for reader in readers] == [(), ()]
    for names in (["a"], ["a", "b"], ["b"], []):
        write_registry(path, [adapter_record(name) for name in names])
        assert [[adapter.name for adapter in reader.adapters()] for reader in readers] == [names, names]


def test_an_unchanged_registry_is_not_read_again(tmp_path: Path) -> None:
    path = registry_path(tmp_path / "engine-0.sock")
    write_registry(path, [adapter_record("a")])
    reader = AdapterRegistryReader(path)
    assert reader.adapters() is reader.adapters()
