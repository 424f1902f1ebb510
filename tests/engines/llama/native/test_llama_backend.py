"""What the step loop is promised of models that compute no numbers, and of those that forget."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dragoman.engines.llama.arrays import TokenArray
from dragoman.engines.llama.native.backend import SEQUENCE_IDS, SPARE_SEQUENCE_IDS, Chunk, DecodeError
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.libraries.builds import LLAMA_CPP
from dragoman.engines.llama.native.libraries.choice import load_library
from dragoman.engines.llama.native.llama_backend import LlamaBackend, SingleContextBackend
from dragoman.engines.llama.native.loading import open_backend
from dragoman.engines.llama.native.model import Model
from tests.support.architecture_files import write_tiny_architecture
from tests.support.libraries import INSTALLED_BUILDS
from tests.support.models import THREADS
from tests.support.tiny_architectures import SERVED
from tests.support.tiny_llama import random_weights, write_model

BROKEN_TOKEN = 50
HARMLESS = np.arange(3, 11, dtype=np.int32)
SHORT = np.array([3, BROKEN_TOKEN, 4], dtype=np.int32)
LONG = np.arange(3, 103, dtype=np.int32)
"""Long enough to be computed apart."""
SEQUENCE = np.arange(3, 43, dtype=np.int32)
COMPUTED = 32
"""Two sliding windows."""


@pytest.fixture(params=INSTALLED_BUILDS)
def broken_backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LlamaBackend]:
    weights = random_weights(0)
    weights["token_embd.weight"][BROKEN_TOKEN] = np.nan
    model = Model(load_library(request.param), write_model(tmp_path / "broken.gguf", weights))
    backend = LlamaBackend(model, ContextOptions(256, 128, threads=THREADS))
    yield backend
    backend.close()
    model.close()


@pytest.mark.parametrize("tokens", [SHORT, LONG], ids=["short", "long"])
def test_logits_that_are_no_numbers_are_never_returned(broken_backend: LlamaBackend, tokens: TokenArray) -> None:
    assert np.isfinite(broken_backend.decode([Chunk(0, 0, HARMLESS, 1)])).all()
    with pytest.raises(DecodeError, match="logits that are no numbers"):
        broken_backend.decode([Chunk(0, len(HARMLESS), HARMLESS[:1], 1), Chunk(1, 0, tokens, 1)])


@pytest.mark.parametrize(("name", "count"), [("mamba", 3), ("gemma3", SEQUENCE_IDS)])
@pytest.mark.usefixtures("cache")
def test_a_model_has_few_sequence_ids_only_if_they_take_memory(tmp_path: Path, name: str, count: int) -> None:
    model = Model(load_library(LLAMA_CPP), write_tiny_architecture(tmp_path / "tiny.gguf", name, SERVED[name]))
    backend = open_backend(model, ContextOptions(256, 64, threads=THREADS, sequence_ids=1 + SPARE_SEQUENCE_IDS))
    assert backend.sequence_ids == count


@pytest.mark.parametrize(("name", "lengths"), [("gemma3", [31, 32]), ("mamba", [32]), ("lfm2", [32])])
def test_what_can_be_shared_is_continued_as_if_it_were_computed(tmp_path: Path, name: str, lengths: list[int]) -> None:
    path = write_tiny_architecture(tmp_path / "tiny.gguf", name, SERVED[name])
    model = Model(load_library(LLAMA_CPP), path)
    backend = SingleContextBackend(model, ContextOptions(256, 64, threads=THREADS, reproducible=True, sequence_ids=8))
    fresh = backend.decode([Chunk(0, 0, SEQUENCE, len(SEQUENCE))]).copy()
    backend.forget(0)
    backend.decode([Chunk(1, 0, SEQUENCE[:COMPUTED], 0)])
    assert backend.restore(2, backend.save(1))
    shared = []
    for length in range(1, COMPUTED + 1):
        if backend.can_share(2, length):
            backend.share(2, 3, 0, length)
            logits = backend.decode([Chunk(3, length, SEQUENCE[length:], len(SEQUENCE) - length)])
            assert np.array_equal(logits, fresh[length:])
            backend.forget(3)
            shared.append(length)
    assert shared == lengths
    backend.close()
    model.close()
