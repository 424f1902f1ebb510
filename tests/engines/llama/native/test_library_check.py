"""The check tells a correct library from a wrong one, and caches its result."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.engines.llama.native.libraries.builds import IK_LLAMA_CPP, LLAMA_CPP
from dragoman.engines.llama.native.libraries.choice import load_library
from dragoman.engines.llama.native.library_check import (
    agrees_with_llama_cpp,
    load_check,
    mean_kl_divergence,
    store_check,
    tokenizes_identically,
)
from dragoman.engines.llama.native.model import Model
from dragoman.engines.llama.weights.sources import bundled
from tests.support.libraries import requires_ik_llama_cpp
from tests.support.models import THREADS
from tests.support.tiny_llama import random_weights, write_model


@pytest.fixture
def shipped_in_ik() -> Iterator[Model]:
    model = Model(load_library(IK_LLAMA_CPP), bundled().path)
    yield model
    model.close()


@requires_ik_llama_cpp
def test_both_libraries_agree_on_the_served_model(fast_model: Model) -> None:
    assert agrees_with_llama_cpp(fast_model, threads=THREADS)


@requires_ik_llama_cpp
def test_wrong_kernels_for_large_batches_are_detected(shipped_in_ik: Model) -> None:
    """If this fails with a newer version, that one computes Q4_1 and Q5_1 correctly and may be used for them."""
    assert not agrees_with_llama_cpp(shipped_in_ik, threads=THREADS)


@requires_ik_llama_cpp
@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_both_libraries_make_the_same_tokens_of_any_text(model: Model, fast_model: Model, text: str) -> None:
    assert fast_model.vocabulary.tokenize(text).tolist() == model.vocabulary.tokenize(text).tolist()


@requires_ik_llama_cpp
def test_libraries_with_different_end_tokens_do_not_tokenize_identically(fast_model: Model, tmp_path: Path) -> None:
    other = Model(load_library(LLAMA_CPP), write_model(tmp_path / "tiny.gguf", random_weights(0)))
    assert tokenizes_identically(fast_model.vocabulary, fast_model.vocabulary)
    assert not tokenizes_identically(fast_model.vocabulary, other.vocabulary)
    other.close()


def test_divergence_is_infinite_where_a_logit_is_not_a_number() -> None:
    logits = np.array([1.0, 2.0, 3.0], dtype=np.float32)
    assert mean_kl_divergence(logits, logits) == 0
    assert mean_kl_divergence(logits, logits[::-1]) > 0.5
    assert mean_kl_divergence(logits, np.full(3, np.nan, dtype=np.float32)) == np.inf


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")
    return path


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("holds", [True, False])
def test_a_check_is_cached_until_the_file_changes(model_file: Path, holds: bool) -> None:
    assert load_check(model_file, "is fast") is None
    store_check(model_file, "is fast", passed=holds)
    assert load_check(model_file, "is fast") is holds
    assert load_check(model_file, "is small") is None
    status = model_file.stat()
    model_file.write_bytes(b"weight2")
    os.utime(model_file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert load_check(model_file, "is fast") is None


def test_an_unreadable_check_counts_as_missing(model_file: Path, cache: Path) -> None:
    store_check(model_file, "is fast", passed=True)
    [kept] = (cache / "verdicts").iterdir()
    for content in (b"", b"\xff", b"perhaps"):
        kept.write_bytes(content)
        assert load_check(model_file, "is fast") is None


def test_without_a_writable_cache_no_check_is_known(model_file: Path, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    store_check(model_file, "is fast", passed=True)
    assert load_check(model_file, "is fast") is None
