"""The library chosen for a model, with the real one."""

from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Type

from dragoman.engines.llama.native.libraries.binding import ContextOptions, Library
from dragoman.engines.llama.native.libraries.builds import IK_LLAMA_CPP, LLAMA_CPP
from dragoman.engines.llama.native.libraries.ik_llama_cpp import IkLlamaCpp
from dragoman.engines.llama.native.libraries.llama_cpp import LlamaCpp
from dragoman.engines.llama.native.loading import library_files, load_model
from dragoman.engines.llama.native.model import Model, ModelError
from dragoman.engines.llama.weights.sources import bundled
from tests.support.gguf_files import random_tensor, write_gguf
from tests.support.libraries import requires_ik_llama_cpp
from tests.support.models import THREADS

pytestmark = requires_ik_llama_cpp

OPTIONS = ContextOptions(context_cells=512, batch_tokens=512, threads=THREADS)


def test_the_rewritten_model_is_computed_by_the_faster_library(fast_model: Model) -> None:
    assert isinstance(fast_model.library, IkLlamaCpp)


@pytest.mark.parametrize("options", [OPTIONS, ContextOptions(512, 512, threads=THREADS, reproducible=True)])
def test_the_shipped_file_in_a_format_that_library_gets_wrong_is_computed_by_llama_cpp(options: ContextOptions) -> None:
    assert _library(bundled().path, None, options) is LlamaCpp


def test_a_model_that_failed_the_check_once_is_computed_by_llama_cpp_from_then_on(
    fast_model: Model, cache: Path
) -> None:
    assert _library(fast_model.path, None, OPTIONS) is IkLlamaCpp
    [verdict] = cache.glob("verdicts/*")
    verdict.write_text("wrong")
    assert _library(fast_model.path, None, OPTIONS) is LlamaCpp


def test_a_configured_library_is_loaded_without_a_check(fast_model: Model) -> None:
    assert _library(fast_model.path, LLAMA_CPP, OPTIONS) is LlamaCpp
    assert _library(bundled().path, IK_LLAMA_CPP, OPTIONS) is IkLlamaCpp


def test_a_file_that_neither_library_loads_is_reported_by_llama_cpp(tmp_path: Path) -> None:
    tensors = {"token_embd.weight": (random_tensor(4, 64), Type.Q8_0)}
    path = write_gguf(tmp_path / "model.gguf", tensors, metadata={"general.architecture": "llama"})
    with pytest.raises(ModelError) as in_turn:
        load_model(path, None, OPTIONS)
    with pytest.raises(ModelError) as alone:
        load_model(path, LLAMA_CPP, OPTIONS)
    assert str(in_turn.value) == str(alone.value)


def test_the_files_that_compute_are_those_of_both_libraries_where_adapters_need_the_other(fast_model: Model) -> None:
    names = [path.name for path in library_files(fast_model)]
    assert [name.split(".")[0].split("-")[0] for name in names] == ["libllama", "libggml", "xllamacpp"]


def _library(path: Path, setting: str | None, options: ContextOptions) -> type[Library]:
    model = load_model(path, setting, options)
    model.close()
    return type(model.library)
