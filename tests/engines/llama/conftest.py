"""The bundled model, loaded once for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.libraries.llama_cpp import LlamaCpp, packaged_llama_cpp
from dragoman.engines.llama.native.loading import load_model
from dragoman.engines.llama.native.model import Model
from dragoman.engines.llama.weights.rewriting import faster_file
from dragoman.engines.llama.weights.sources import bundled
from tests.support.models import THREADS, write_shallow


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    """The bundled model's weights and vocabulary."""
    model = Model(LlamaCpp(packaged_llama_cpp()), bundled().path)
    yield model
    model.close()


@pytest.fixture(scope="session")
def fast_model() -> Iterator[Model]:
    """The bundled model as it is served: rewritten, and computed by the fastest library for it."""
    path = faster_file(bundled().path, progress=False, notify=lambda _line: None)
    model = load_model(path, None, ContextOptions(context_cells=512, batch_tokens=512, threads=THREADS))
    yield model
    model.close()


@pytest.fixture(scope="session")
def shallow_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """Two of its layers with the whole vocabulary, for tests that do not depend on the quality of answers."""
    path = write_shallow(bundled().path, tmp_path_factory.mktemp("models") / "shallow.gguf", 2)
    model = Model(LlamaCpp(packaged_llama_cpp()), path)
    yield model
    model.close()


@pytest.fixture(scope="session")
def one_layer_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """One of its layers with the whole vocabulary, for tests of what grammars make of many tokens."""
    path = write_shallow(bundled().path, tmp_path_factory.mktemp("models") / "one-layer.gguf", 1)
    model = Model(LlamaCpp(packaged_llama_cpp()), path)
    yield model
    model.close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """dragoman's folder in an empty user cache. The folder does not exist."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dragoman"
