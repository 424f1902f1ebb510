import struct
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Type

from dragoman.engines.llama.native.libraries.builds import IK_LLAMA_CPP, LLAMA_CPP
from dragoman.engines.llama.native.libraries.choice import choose_build, choose_embedding_build
from dragoman.engines.llama.weights.sources import bundled
from tests.support.gguf_files import random_tensor, write_gguf
from tests.support.libraries import requires_ik_llama_cpp

pytestmark = requires_ik_llama_cpp

WEIGHTS = random_tensor(4, 64)
LLAMA = {"general.architecture": "llama"}


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q5_0, Type.Q8_0])
def test_a_llama_with_matrices_in_fast_formats_is_computed_by_the_faster_build(tmp_path: Path, kind: Type) -> None:
    tensors = {"norm": (WEIGHTS[0], Type.F32), "a": (WEIGHTS, kind)}
    path = write_gguf(tmp_path / "model.gguf", tensors, metadata=LLAMA)
    assert choose_build(None, path, cells=16384, reproducible=False) == IK_LLAMA_CPP


def test_a_reproducible_engine_uses_llama_cpp(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", {"a": (WEIGHTS, Type.Q8_0)}, metadata=LLAMA)
    assert choose_build(None, path, cells=16384, reproducible=True) == LLAMA_CPP


def test_a_larger_cache_is_computed_with_the_flash_attention_of_llama_cpp(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", {"a": (WEIGHTS, Type.Q8_0)}, metadata=LLAMA)
    assert choose_build(None, path, cells=16640, reproducible=False) == LLAMA_CPP


@pytest.mark.parametrize("kind", [Type.Q4_1, Type.Q5_1, Type.F16, Type.F32])
def test_one_matrix_in_a_format_it_gets_wrong_or_is_slow_with_keeps_the_faster_build_away(
    tmp_path: Path, kind: Type
) -> None:
    tensors = {"a": (WEIGHTS, Type.Q8_0), "b": (WEIGHTS, kind)}
    path = write_gguf(tmp_path / "model.gguf", tensors, metadata=LLAMA)
    assert choose_build(None, path, cells=16384, reproducible=False) == LLAMA_CPP


def test_another_architecture_is_computed_by_llama_cpp(tmp_path: Path) -> None:
    metadata = {"general.architecture": "qwen2"}
    path = write_gguf(tmp_path / "model.gguf", {"a": (WEIGHTS, Type.Q8_0)}, metadata=metadata)
    assert choose_build(None, path, cells=16384, reproducible=False) == LLAMA_CPP


def test_a_file_that_cannot_be_read_is_left_to_llama_cpp_to_complain_about(tmp_path: Path) -> None:
    half = tmp_path / "half.gguf"
    half.write_bytes(bundled().path.read_bytes()[:1000])
    assert choose_build(None, half, cells=16384, reproducible=False) == LLAMA_CPP
    assert choose_build(None, tmp_path / "absent.gguf", cells=16384, reproducible=False) == LLAMA_CPP


@pytest.mark.parametrize(
    "vector",
    [
        struct.pack("<IQI", 1, 0, 0),
        struct.pack("<IQI", 1, 2**63, 0),
        struct.pack("<IQI", 1, 64, 2**15),
        struct.pack("<II", 0, 0),
    ],
    ids=["no values", "too many values", "unknown format", "no dimensions"],
)
def test_a_tensor_that_ends_the_faster_build_is_left_to_llama_cpp(tmp_path: Path, vector: bytes) -> None:
    tensors = {"matrix": (WEIGHTS, Type.Q8_0), "vector": (WEIGHTS[0], Type.F32)}
    path = write_gguf(tmp_path / "model.gguf", tensors, metadata=LLAMA)
    usual = b"vector" + struct.pack("<IQI", 1, WEIGHTS.shape[1], 0)
    content = path.read_bytes()
    assert content.count(usual) == 1
    path.write_bytes(content.replace(usual, b"vector" + vector))
    assert choose_build(None, path, cells=16384, reproducible=False) == LLAMA_CPP


@pytest.mark.parametrize(
    ("alignment", "build"), [(8, LLAMA_CPP), (16, LLAMA_CPP), (32, IK_LLAMA_CPP), (64, IK_LLAMA_CPP)]
)
def test_tensors_that_are_not_aligned_as_usual_are_left_to_llama_cpp(
    tmp_path: Path, alignment: int, build: str
) -> None:
    tensors = {"a": (WEIGHTS, Type.Q8_0), "b": (WEIGHTS, Type.Q8_0)}
    path = write_gguf(tmp_path / "model.gguf", tensors, metadata=LLAMA, alignment=alignment)
    assert choose_build(None, path, cells=16384, reproducible=False) == build


def test_a_scaling_of_positions_that_the_faster_build_lacks_is_left_to_llama_cpp(tmp_path: Path) -> None:
    metadata = {**LLAMA, "llama.rope.scaling.type": "longrope"}
    path = write_gguf(tmp_path / "model.gguf", {"a": (WEIGHTS, Type.Q8_0)}, metadata=metadata)
    assert choose_build(None, path, cells=16384, reproducible=False) == LLAMA_CPP


@pytest.mark.parametrize("setting", [LLAMA_CPP, IK_LLAMA_CPP, "/opt/llama.cpp/libllama.so"])
def test_a_configured_build_is_used(setting: str) -> None:
    assert choose_build(setting, bundled().path, cells=16384, reproducible=False) == setting


def encoder(path: Path, kind: Type, architecture: str = "bert") -> Path:
    tensors = {"norm": (WEIGHTS[0], Type.F32), "a": (WEIGHTS, kind)}
    return write_gguf(path / "model.gguf", tensors, metadata={"general.architecture": architecture})


@pytest.mark.parametrize("kind", [Type.F32, Type.F16])
def test_an_encoder_of_floats_is_computed_by_the_faster_build(tmp_path: Path, kind: Type) -> None:
    assert choose_embedding_build(None, encoder(tmp_path, kind), longest=512, reproducible=False) == IK_LLAMA_CPP


def test_an_encoder_that_the_faster_build_does_not_suit_is_computed_by_llama_cpp(tmp_path: Path) -> None:
    floats = encoder(tmp_path, Type.F32)
    assert choose_embedding_build(None, floats, longest=513, reproducible=False) == LLAMA_CPP
    assert choose_embedding_build(None, floats, longest=512, reproducible=True) == LLAMA_CPP
    assert choose_embedding_build(LLAMA_CPP, floats, longest=512, reproducible=False) == LLAMA_CPP
    other = encoder(tmp_path, Type.F32, "nomic-bert")
    assert choose_embedding_build(None, other, longest=512, reproducible=False) == LLAMA_CPP
    quantized = encoder(tmp_path, Type.Q8_0)
    assert choose_embedding_build(None, quantized, longest=512, reproducible=False) == LLAMA_CPP
