"""Contexts that share out a batch, on one layer of a real model, by both libraries."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.engines.llama.arrays import TokenArray
from dragoman.engines.llama.native.embedding_context import Vectors
from dragoman.engines.llama.native.libraries.binding import MAX_SEQUENCE_IDS, ContextOptions
from dragoman.engines.llama.native.libraries.builds import IK_LLAMA_CPP, LLAMA_CPP
from dragoman.engines.llama.native.libraries.ik_llama_cpp import IkLlamaCpp
from dragoman.engines.llama.native.libraries.llama_cpp import LlamaCpp
from dragoman.engines.llama.native.library_check import computes_same_vectors, lowest_cosine
from dragoman.engines.llama.native.loading import library_files, load_embedding_model, open_embedding_context
from dragoman.engines.llama.native.model import Model, ModelError
from dragoman.engines.llama.native.parallel_contexts import ParallelContexts, split_evenly
from tests.support import minilm
from tests.support.libraries import requires_ik_llama_cpp

OPTIONS = ContextOptions(context_cells=512, batch_tokens=512, threads=2)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    model = load_embedding_model(minilm.write_gguf(tmp_path_factory.mktemp("encoder") / "encoder.gguf", layers=1), None)
    yield model
    model.close()


@pytest.fixture
def opened(encoder: Model, cache: Path) -> Iterator[Callable[[str | None], ParallelContexts]]:
    assert not cache.exists()
    contexts: list[ParallelContexts] = []

    def open_with(setting: str | None) -> ParallelContexts:
        contexts.append(open_embedding_context(encoder, "embeddings", OPTIONS, setting))
        return contexts[-1]

    yield open_with
    for each in contexts:
        each.close()


def sequences(*lengths: int) -> list[TokenArray]:
    source = np.random.default_rng(sum(lengths))
    return [source.integers(1000, 20_000, length).astype(np.int32) for length in lengths]


def unit(vectors: Vectors) -> Vectors:
    scaled: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


@given(st.lists(st.integers(1, 512), min_size=1, max_size=40), st.integers(1, 8))
def test_every_sequence_is_in_one_part_and_no_part_is_much_larger(lengths: list[int], parts: int) -> None:
    chosen = split_evenly(lengths, parts)
    assert sorted(index for part in chosen for index in part) == list(range(len(lengths)))
    assert len(chosen) == min(parts, len(lengths))
    fair = max(sum(lengths) / len(chosen), *lengths)
    assert max(sum(lengths[index] for index in part) for part in chosen) < 2 * fair


@requires_ik_llama_cpp
def test_floats_are_computed_by_the_faster_library_and_a_part_of_them_by_each_thread(
    opened: Callable[[str | None], ParallelContexts],
) -> None:
    contexts = opened(None)
    assert isinstance(contexts.model.library, IkLlamaCpp)
    assert contexts.parts == OPTIONS.threads
    assert contexts.max_sequences == MAX_SEQUENCE_IDS, "since a single part may have nearly all sequences of a batch"
    assert [path.name.split(".")[0].split("-")[0] for path in library_files(contexts.model)][-1] == "xllamacpp"


@requires_ik_llama_cpp
def test_both_libraries_compute_the_same_vectors_in_order(opened: Callable[[str | None], ParallelContexts]) -> None:
    """Of batches with a part of four tokens too, of which ik_llama.cpp alone would compute other vectors."""
    faster, reference = opened(IK_LLAMA_CPP), opened(LLAMA_CPP)
    for lengths in [(4,), (2, 2), (4, 4), (3, 1, 4), (1,), (5, 8, 40), (512, 500), (400, 12, 90, 30)]:
        batch = sequences(*lengths)
        np.testing.assert_allclose(unit(faster.compute(batch)), unit(reference.compute(batch)), atol=5e-4)


@requires_ik_llama_cpp
def test_a_library_with_other_vectors_is_found_out_once_and_not_used_from_then_on(
    encoder: Model, opened: Callable[[str | None], ParallelContexts], cache: Path, tmp_path: Path
) -> None:
    other = load_embedding_model(minilm.write_gguf(tmp_path / "other.gguf", layers=2), None)
    contexts = opened(IK_LLAMA_CPP)

    def open_reference(model: Model) -> ParallelContexts:
        return open_embedding_context(model, "embeddings", OPTIONS, LLAMA_CPP)

    assert lowest_cosine(contexts, lambda: open_reference(encoder)) > 0.9999
    assert not computes_same_vectors(contexts, lambda: open_reference(other))
    assert isinstance(opened(None).model.library, LlamaCpp)
    [verdict] = cache.glob("verdicts/*")
    verdict.unlink()
    assert isinstance(opened(None).model.library, IkLlamaCpp)
    other.close()


@requires_ik_llama_cpp
def test_a_model_that_the_configured_library_does_not_compute_is_refused_by_name(tmp_path: Path) -> None:
    model = load_embedding_model(
        minilm.write_gguf(tmp_path / "reranker.gguf", layers=1, head=minilm.random_head(1)), IK_LLAMA_CPP
    )
    with pytest.raises(ModelError, match=r"ik_llama.cpp does not compute the vectors of .*reranker.gguf"):
        open_embedding_context(model, "rerank", OPTIONS, IK_LLAMA_CPP)
    model.close()
