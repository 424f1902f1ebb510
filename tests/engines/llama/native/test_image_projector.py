"""Projector files with random weights, in the tests' own process, since the same calls were seen not to end it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dragoman.engines.llama.native.image_projector import ImageProjector
from dragoman.engines.llama.native.libraries.binding import LibraryError
from dragoman.engines.llama.native.libraries.ik_llama_cpp import IkLlamaCpp, packaged_ik_llama_cpp
from dragoman.engines.llama.native.libraries.llama_cpp import LlamaCpp, packaged_llama_cpp
from dragoman.engines.llama.native.model import Model, ModelError
from tests.support.architecture_files import write_tiny_architecture
from tests.support.gguf_files import write_tiny_model
from tests.support.libraries import requires_ik_llama_cpp
from tests.support.models import THREADS
from tests.support.special_token_model import load_special_token_model
from tests.support.tiny_architectures import SERVED
from tests.support.tiny_projector import ProjectorKind, random_image, write_projector

IMAGE_TOKENS = ("<start_of_image>", "<end_of_image>")
"""Of Gemma 3."""


@pytest.fixture
def text_model(tmp_path: Path) -> Iterator[Model]:
    model = load_special_token_model(tmp_path / "text.gguf", IMAGE_TOKENS)
    yield model
    model.close()


def open_projector(model: Model, folder: Path, kind: ProjectorKind, text_width: int = 64) -> ImageProjector:
    return ImageProjector(model, write_projector(folder / "mmproj.gguf", kind, text_width=text_width), THREADS)


@pytest.mark.parametrize(("kind", "tokens", "is_causal"), [("mlp", [16], True), ("gemma3", [[260], 1, [259]], False)])
def test_an_image_is_tokens_and_embeddings(
    text_model: Model, tmp_path: Path, kind: ProjectorKind, tokens: list[list[int] | int], is_causal: bool
) -> None:
    projector = open_projector(text_model, tmp_path, kind)
    found = [piece if isinstance(piece, int) else piece.tolist() for piece in projector.tokenize(random_image())]
    assert (found, projector.is_causal) == (tokens, is_causal)
    [encoded], [again], [other] = (projector.encode(random_image(seed)) for seed in (0, 0, 1))
    assert encoded.embeddings.shape == (sum(piece for piece in tokens if isinstance(piece, int)), 64)
    assert np.array_equal(encoded.embeddings, again.embeddings)
    assert not np.array_equal(encoded.embeddings, other.embeddings)
    assert (encoded.is_causal, encoded.coordinates, encoded.surplus) == (is_causal, None, 0)
    projector.close()


@pytest.mark.parametrize("kind", ["mlp", "gemma3"])
def test_images_of_every_shape_that_is_allowed_are_prepared(
    text_model: Model, tmp_path: Path, kind: ProjectorKind
) -> None:
    projector = open_projector(text_model, tmp_path, kind)
    for width, height in [(1, 1), (50, 1), (1, 50), (2500, 50), (300, 200)]:
        assert projector.encode(random_image(0, width, height))
    projector.close()


@pytest.mark.parametrize(
    ("kind", "text_width", "reason"),
    [
        ("mlp", 32, "mismatch between text model"),
        ("idefics3", 64, "lacks the tokens around images"),
    ],
)
def test_a_projector_that_cannot_be_served_is_refused_with_the_reason(
    text_model: Model, tmp_path: Path, kind: ProjectorKind, text_width: int, reason: str
) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        open_projector(text_model, tmp_path, kind, text_width)
    assert "\n" not in str(caught.value)


def test_positions_in_several_dimensions_are_refused_beside_recurrent_states(tmp_path: Path) -> None:
    path = write_tiny_architecture(tmp_path / "text.gguf", "qwen35", SERVED["qwen35"])
    model = Model(LlamaCpp(packaged_llama_cpp()), path)
    with pytest.raises(ModelError, match="M-RoPE"):
        open_projector(model, tmp_path, "qwen2vl_merger", 32)
    model.close()


def test_a_file_that_is_no_projector_is_refused_with_the_reason(text_model: Model, tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and nothing else")
    for path in (text_model.path, tmp_path / "broken.gguf", tmp_path / "missing.gguf"):
        with pytest.raises(ModelError, match="cannot be loaded as mmproj"):
            ImageProjector(text_model, path, THREADS)


@requires_ik_llama_cpp
def test_a_library_without_functions_for_images_is_refused_with_the_advice(tmp_path: Path) -> None:
    model = Model(IkLlamaCpp(packaged_ik_llama_cpp()), write_tiny_model(tmp_path / "text.gguf"))
    with pytest.raises(LibraryError, match=r"cannot read images.*serve the model without mmproj"):
        ImageProjector(model, tmp_path / "mmproj.gguf", THREADS)
    model.close()
