"""What the step loop is promised of a model that computes no numbers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dragoman.engines.llama.arrays import TokenArray
from dragoman.engines.llama.native.backend import Chunk, DecodeError
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.libraries.choice import load_library
from dragoman.engines.llama.native.llama_backend import LlamaBackend
from dragoman.engines.llama.native.model import Model
from tests.support.libraries import INSTALLED_BUILDS
from tests.support.models import THREADS
from tests.support.tiny_llama import random_weights, write_model

BROKEN_TOKEN = 50
HARMLESS = np.arange(3, 11, dtype=np.int32)
SHORT = np.array([3, BROKEN_TOKEN, 4], dtype=np.int32)
LONG = np.arange(3, 103, dtype=np.int32)
"""Long enough to be computed apart."""


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
