import tempfile
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st

from dragoman.engines.llama.weights.gguf_header import HeaderError, read_header
from dragoman.engines.llama.weights.requantization import FILE_TYPES, plan, write
from tests.support.gguf_files import Weights, random_tensor, write_gguf

KINDS = st.sampled_from([Type.F32, Type.F16, Type.Q4_1, Type.Q5_1, Type.Q8_0])
SHAPES = st.tuples(st.integers(1, 70), st.sampled_from([32, 96, 608]))


def requantized(source: Path, replacing: set[Type], by: Type = Type.Q8_0) -> Path:
    target = source.with_suffix(".copy")
    write(plan(source, source_types=replacing, target_type=by), target)
    return target


@given(st.lists(st.tuples(SHAPES, KINDS), min_size=1, max_size=3), st.sampled_from([32, 64]))
def test_only_the_replaced_tensors_change_and_to_the_very_bytes_of_the_reference_quantizer(
    kinds: list[tuple[tuple[int, int], Type]], alignment: int
) -> None:
    tensors = {f"t{number}": (random_tensor(*shape), kind) for number, (shape, kind) in enumerate(kinds)}
    with tempfile.TemporaryDirectory() as folder:
        path = write_gguf(Path(folder, "model.gguf"), tensors, alignment=alignment)
        before = gguf.GGUFReader(path).tensors
        after = gguf.GGUFReader(requantized(path, {Type.Q4_1, Type.Q5_1})).tensors
        for old, new in zip(before, after, strict=True):
            assert (old.name, old.shape.tolist()) == (new.name, new.shape.tolist())
            if old.tensor_type in (Type.Q4_1, Type.Q5_1):
                assert new.tensor_type == Type.Q8_0
                assert np.array_equal(new.data, quantize(dequantize(old.data, old.tensor_type), Type.Q8_0))
            else:
                assert new.tensor_type == old.tensor_type
                assert np.array_equal(new.data, old.data)


def test_metadata_stay_byte_for_byte_but_for_the_numbers_that_name_the_quantization(tmp_path: Path) -> None:
    metadata = {"tokenizer.ggml.tokens": ["a", "é", ""], "llama.block_count": 3, "tokenizer.chat_template": "{{ x }}"}
    path = write_gguf(tmp_path / "model.gguf", {"t": (random_tensor(4, 32), Type.Q4_1)}, metadata=metadata)
    old, new = read_header(path), read_header(requantized(path, {Type.Q4_1}))
    changed = [place for place, (a, b) in enumerate(zip(old.metadata, new.metadata, strict=True)) if a != b]
    assert changed == [old.uint32_offsets["general.file_type"]]
    assert new.metadata[changed[0]] == FILE_TYPES[Type.Q8_0]


def test_q8_0_equals_q4_1_to_within_half_a_quantization_step(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", {"t": (random_tensor(64, 512), Type.Q4_1)})
    old, new = (_weights(file) for file in (path, requantized(path, {Type.Q4_1})))
    blocks, difference = old.reshape(-1, 32), np.abs(new - old).reshape(-1, 32)
    step = np.abs(blocks).max(axis=1, keepdims=True) / 127
    assert (difference <= 0.51 * step + 127 * step * 2**-11).all(), "half a step, and float16's rounding of the step"


@pytest.mark.parametrize("by", FILE_TYPES)
def test_every_format_that_is_offered_can_be_written(tmp_path: Path, by: Type) -> None:
    path = write_gguf(tmp_path / "model.gguf", {"t": (random_tensor(3, 64), Type.F32)})
    [tensor] = gguf.GGUFReader(requantized(path, {Type.F32}, by)).tensors
    assert tensor.tensor_type == by


def test_a_tensor_of_many_slabs_is_complete_and_its_bytes_are_reported(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", {"t": (random_tensor(2100, 1024), Type.Q4_1)})
    planned = plan(path, source_types={Type.Q4_1}, target_type=Type.Q8_0)
    written: list[int] = []
    write(planned, tmp_path / "copy.gguf", report=written.append)
    assert sum(written) == planned.size
    assert len(written) > 2
    [old], [new] = gguf.GGUFReader(path).tensors, gguf.GGUFReader(tmp_path / "copy.gguf").tensors
    assert np.array_equal(new.data, quantize(dequantize(old.data, Type.Q4_1), Type.Q8_0))


def test_a_truncated_file_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", {"t": (random_tensor(64, 512), Type.Q4_1)})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(HeaderError, match="ends before its tensor t does"):
        plan(path, source_types={Type.Q4_1}, target_type=Type.Q8_0)


def test_rows_that_are_no_whole_blocks_are_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", {"t": (random_tensor(2, 33), Type.F32)})
    with pytest.raises(HeaderError, match=r"tensor t of the shape \(33, 2\) cannot have the format Q8_0"):
        plan(path, source_types={Type.F32}, target_type=Type.Q8_0)


def _weights(path: Path) -> Weights:
    [tensor] = gguf.GGUFReader(path).tensors
    return dequantize(tensor.data, tensor.tensor_type)
