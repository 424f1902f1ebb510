"""The registry as the engine process writes it and reads it again."""

from pathlib import Path

from dragoman.engines.llama.wire.adapter_registry import read_registry, registry_path, write_registry
from tests.support.adapters import adapter_record


def test_a_written_registry_is_read_as_it_was_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = registry_path(tmp_path / "engine-0.sock")
    assert read_registry(path) == []
    for names in (["a"], ["a", "b"], ["b"], []):
        records = [adapter_record(name) for name in names]
        write_registry(path, records)
        assert read_registry(path) == records
    assert [file.name for file in tmp_path.iterdir()] == ["engine-0.adapters.json"]
