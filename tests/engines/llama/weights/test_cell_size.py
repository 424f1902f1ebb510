from pathlib import Path

from gguf import GGMLQuantizationType as Type

from dragoman.engines.llama.weights.cell_size import read_cell_size
from dragoman.engines.llama.weights.sources import bundled
from tests.support.gguf_files import random_tensor, write_gguf


def test_a_cell_has_keys_and_values_of_all_layers() -> None:
    size = read_cell_size(bundled().path)
    assert size is not None
    assert size.bytes == 30 * 3 * (64 + 64) * 2
    assert 2500 < size.step_cells < 3500


def test_a_file_that_does_not_say_its_layers_has_no_size(tmp_path: Path) -> None:
    tensors = {"token_embd.weight": (random_tensor(4, 64), Type.Q8_0)}
    path = write_gguf(tmp_path / "model.gguf", tensors, metadata={"general.architecture": "llama"})
    assert read_cell_size(path) is None
    path.write_bytes(b"GGUF")
    assert read_cell_size(path) is None
