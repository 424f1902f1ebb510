import contextlib
import tempfile
from pathlib import Path

import gguf
import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import given
from hypothesis import strategies as st

from dragoman.engines.llama.weights.gguf_header import HeaderError, read_header
from dragoman.engines.llama.weights.sources import bundled
from tests.support.gguf_files import random_tensor, write_gguf

NAMES = st.text("abc.é", min_size=1, max_size=8)
TENSORS = st.dictionaries(
    NAMES,
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.sampled_from([Type.F32, Type.F16, Type.Q4_1, Type.Q8_0])),
    min_size=1,
    max_size=4,
)
VALUES = st.one_of(
    st.text(max_size=5),
    st.integers(0, 2**32 - 1),
    st.lists(st.text(max_size=5), min_size=1, max_size=4),
    st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=4),
)
METADATA = st.dictionaries(NAMES.map("own.{}".format), VALUES, max_size=4)
SMALL = {"a": (random_tensor(2, 32), Type.Q4_1)}


@given(TENSORS, METADATA, st.sampled_from([8, 32, 64]))
def test_a_header_is_read_as_the_formats_own_library_reads_it(
    shapes: dict[str, tuple[int, int, Type]], metadata: dict[str, object], alignment: int
) -> None:
    tensors = {name: (random_tensor(rows, 32 * blocks), kind) for name, (rows, blocks, kind) in shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = write_gguf(Path(folder, "model.gguf"), tensors, metadata=metadata, alignment=alignment)
        header, expected = read_header(path), gguf.GGUFReader(path)
        assert header.alignment == expected.alignment
        assert [(tensor.name.decode(), list(tensor.shape), tensor.type, tensor.start) for tensor in header.tensors] == [
            (tensor.name, tensor.shape.tolist(), tensor.tensor_type, tensor.data_offset) for tensor in expected.tensors
        ]
        for found, tensor in zip(header.tensors, expected.tensors, strict=True):
            assert 0 <= found.size - tensor.n_bytes < alignment
        for key, place in header.uint32_offsets.items():
            assert int.from_bytes(header.metadata[place : place + 4], "little") == expected.fields[key].contents()


@given(st.data())
def test_a_file_that_is_cut_or_corrupted_is_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_gguf(Path(folder, "model.gguf"), SMALL, metadata={"words": ["a", "b"], "name": "c"})
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(0, 3))):
            place = data.draw(st.integers(0, len(content) - 8))
            content[place : place + 8] = data.draw(st.binary(min_size=8, max_size=8) | st.just(b"\xff" * 8))
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        with contextlib.suppress(HeaderError):
            assert all(tensor.start + tensor.size <= path.stat().st_size for tensor in read_header(path).tensors)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"GGUF", "no GGUF header that can be read"),
        (b"PK\x03\x04" + bytes(60), "begins with b'PK"),
        (b"GGUF\x09\0\0\0" + bytes(60), "version 9"),
        (b"GGUF\0\0\0\x03" + bytes(60), "version 50331648"),
    ],
)
def test_other_files_are_refused_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(HeaderError, match=reason):
        read_header(path)


def test_the_bundled_models_weights_are_mostly_q4_1() -> None:
    tensors = read_header(bundled().path).tensors
    assert len(tensors) == 272
    assert sum(tensor.type == Type.Q4_1 for tensor in tensors) == 210
