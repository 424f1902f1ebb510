from pathlib import Path

from dragoman.core.adapters import Adapter, AdapterSource
from dragoman.engines.llama.wire.adapter_registry import (
    AdapterRecord,
    AdapterRegistryReader,
    read_registry,
    registry_path,
    write_registry,
)


def record(name: str) -> AdapterRecord:
    return AdapterRecord(
        Adapter(name, AdapterSource("hub", "acme/poet", "v2"), 17, ("it",), 0.5, "me", "ab"), "/x.gguf"
    )


def test_a_written_registry_is_read_by_all_readers_at_once(tmp_path: Path) -> None:
    path = registry_path(tmp_path / "engine-0.sock")
    readers = [AdapterRegistryReader(path), AdapterRegistryReader(path)]
    assert read_registry(path) == []
    assert [reader.adapters() for reader in readers] == [(), ()]
    for names in (["a"], ["a", "b"], ["b"], []):
        records = [record(name) for name in names]
        write_registry(path, records)
        assert read_registry(path) == records
        assert [[adapter.name for adapter in reader.adapters()] for reader in readers] == [names, names]
    assert [file.name for file in tmp_path.iterdir()] == ["engine-0.adapters.json"]


def test_an_unchanged_registry_is_not_read_again(tmp_path: Path) -> None:
    path = registry_path(tmp_path / "engine-0.sock")
    write_registry(path, [record("a")])
    reader = AdapterRegistryReader(path)
    assert reader.adapters() is reader.adapters()
