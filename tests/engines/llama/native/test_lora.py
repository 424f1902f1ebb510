"""An adapter changes the logits exactly as merging it into the weights does, with a small real model."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dragoman.core.request import SamplingParams
from dragoman.engines.llama.arrays import Logits
from dragoman.engines.llama.batching.batcher import Batcher
from dragoman.engines.llama.batching.sequence import EngineRequest, RequestKey
from dragoman.engines.llama.native.backend import NO_ADAPTER, Chunk
from dragoman.engines.llama.native.libraries.binding import ContextOptions, Library
from dragoman.engines.llama.native.libraries.builds import LLAMA_CPP
from dragoman.engines.llama.native.libraries.choice import load_library
from dragoman.engines.llama.native.llama_backend import LlamaBackend, SingleContextBackend
from dragoman.engines.llama.native.lora import LoraAdapter
from dragoman.engines.llama.native.model import Model, ModelError
from dragoman.engines.llama.weights.gguf_header import FLOAT32
from tests.support.architecture_files import write_tiny_architecture
from tests.support.batching import run_until_idle, tokens_by_request
from tests.support.gguf_files import random_tensor
from tests.support.models import THREADS
from tests.support.tiny_architectures import SERVED
from tests.support.tiny_llama import (
    VOCABULARY,
    WIDTH,
    LowRank,
    merged,
    random_lora_updates,
    random_weights,
    write_adapter,
    write_model,
)

ALPHA = 8.0
TOLERANCE = 1e-3
WEIGHTS = random_weights(0)
SHORT = np.arange(3, 11, dtype=np.int32)
LONG = np.arange(3, 203, dtype=np.int32) % VOCABULARY
"""Long enough for the prefill context."""


@pytest.fixture(scope="module")
def library() -> Library:
    return load_library(LLAMA_CPP)


@pytest.fixture(scope="module")
def tiny(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    model = Model(library, write_model(tmp_path_factory.mktemp("model") / "tiny.gguf", WEIGHTS))
    yield model
    model.close()


@pytest.fixture
def backend(tiny: Model) -> Iterator[LlamaBackend]:
    backend = _backend(tiny)
    yield backend
    backend.close()


@pytest.mark.parametrize("tokens", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("scale", [1.0, 0.25, -2.0])
def test_logits_with_an_adapter_are_those_of_the_model_it_is_merged_into(
    library: Library, backend: LlamaBackend, tmp_path: Path, scale: float, tokens: np.ndarray
) -> None:
    changes = random_lora_updates(1)
    adapter = backend.load_adapter(write_adapter(tmp_path / "a.gguf", changes, alpha=ALPHA), scale)
    found = _logits(backend, tokens, adapter)
    other = Model(library, write_model(tmp_path / "merged.gguf", merged(WEIGHTS, changes, ALPHA, scale)))
    expected = _expected(other, tokens)
    other.close()
    assert np.abs(found - expected).max() < TOLERANCE * np.abs(expected).max()
    assert np.abs(found - _logits(backend, tokens)).max() > 0.1, "it is not the base model's answer"


def test_a_change_of_the_output_matrix_moves_the_logits_by_b_times_a(backend: LlamaBackend, tmp_path: Path) -> None:
    source = np.random.default_rng(5)
    b, a = np.zeros((VOCABULARY, 1), dtype=np.float32), source.normal(0, 1, (1, WIDTH)).astype(np.float32)
    b[7] = 1.0
    path = write_adapter(tmp_path / "one-token.gguf", {"output.weight": LowRank(b, a)}, alpha=1.0)
    once, twice = backend.load_adapter(path, 1.0), backend.load_adapter(path, 2.0)
    base = _logits(backend, SHORT)
    moved, moved_twice = _logits(backend, SHORT, once) - base, _logits(backend, SHORT, twice) - base
    others = np.arange(VOCABULARY) != 7
    assert not moved[others].any()
    assert abs(moved[7]) > 0.01
    assert np.isclose(moved_twice[7], 2 * moved[7], atol=TOLERANCE)


def test_adapters_that_take_turns_answer_as_each_does_alone(tiny: Model, tmp_path: Path) -> None:
    paths = [write_adapter(tmp_path / f"{seed}.gguf", random_lora_updates(seed), alpha=ALPHA) for seed in (1, 2)]
    backend = _backend(tiny, reproducible=True)
    adapters = [NO_ADAPTER, *(backend.load_adapter(path, 1.0) for path in paths)]
    alone = [_answers(tiny, backend, [adapter] * 3)[(0, 0)] for adapter in adapters]
    together = _answers(tiny, backend, adapters * 3)
    backend.close()
    assert [together[0, number] for number in range(9)] == alone * 3
    assert len(set(map(tuple, alone))) == 3


def test_after_an_adapter_was_unloaded_the_others_answer_as_before(backend: LlamaBackend, tmp_path: Path) -> None:
    paths = [write_adapter(tmp_path / f"{seed}.gguf", random_lora_updates(seed)) for seed in (1, 2)]
    first, second = (backend.load_adapter(path, 1.0) for path in paths)
    before, base = _logits(backend, LONG, second), _logits(backend, LONG)
    _logits(backend, LONG, first)
    backend.unload_adapter(first)
    assert np.array_equal(_logits(backend, LONG, second), before)
    assert np.array_equal(_logits(backend, LONG), base)
    third = backend.load_adapter(paths[0], 1.0)
    assert third not in (first, second)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"architecture": "qwen2"}, "arch and LoRA arch mismatch"),
        ({"kind": "model"}, "expect general.type to be 'adapter', but got: model"),
    ],
)
def test_a_file_that_is_no_adapter_for_the_model_is_refused_with_the_reason(
    tiny: Model, tmp_path: Path, options: dict[str, str], reason: str
) -> None:
    path = write_adapter(tmp_path / "wrong.gguf", random_lora_updates(1), **options)  # type: ignore[arg-type]
    _assert_refused(tiny, path, reason)


def test_an_adapter_with_an_entry_of_another_type_is_refused_by_its_name(tiny: Model, tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a.gguf", random_lora_updates(1))
    content, entry = path.read_bytes(), b"adapter.lora.alpha" + struct.pack("<I", FLOAT32)
    assert content.count(entry) == 1
    path.write_bytes(content.replace(entry, entry[:-4] + struct.pack("<I", 4)))
    with pytest.raises(
        ModelError, match=r"adapter: its adapter.lora.alpha is of the type 4, and must be of the type 6$"
    ):
        LoraAdapter(tiny, path, 1.0)
    nameless = content.replace(b"adapter.lora.alpha", b"adapter.lora.omega")
    path.write_bytes(nameless)
    LoraAdapter(tiny, path, 1.0).close()


def test_an_adapter_for_another_size_or_other_matrices_is_refused_with_the_reason(tiny: Model, tmp_path: Path) -> None:
    wide = LowRank(np.ones((WIDTH, 2), dtype=np.float32), np.ones((2, 2 * WIDTH), dtype=np.float32))
    _assert_refused(tiny, write_adapter(tmp_path / "wide.gguf", {"blk.0.attn_q.weight": wide}), "has incorrect shape")
    _assert_refused(
        tiny, write_adapter(tmp_path / "deep.gguf", {"blk.9.attn_q.weight": wide}), "does not exist in base model"
    )


def test_a_truncated_or_missing_adapter_is_refused_with_the_reason(tiny: Model, tmp_path: Path) -> None:
    whole = write_adapter(tmp_path / "whole.gguf", random_lora_updates(1)).read_bytes()
    half = tmp_path / "half.gguf"
    half.write_bytes(whole[: len(whole) // 2])
    _assert_refused(tiny, half, "damaged or not whole")
    _assert_refused(tiny, tmp_path / "absent.gguf", "No such file")


@pytest.mark.parametrize(
    ("architecture", "matrix", "rows", "columns"),
    [("jamba", "ssm_in", 128, 32), ("qwen3next", "attn_gate", 64, 32), ("gpt-oss", "attn_q", 32, 32)],
)
def test_an_adapter_changes_models_that_forget_as_merging_it_does(
    library: Library, tmp_path: Path, architecture: str, matrix: str, rows: int, columns: int
) -> None:
    update = LowRank(random_tensor(rows, 4), random_tensor(4, columns, seed=1))
    name, tiny = f"blk.0.{matrix}.weight", SERVED[architecture]
    adapter_file = write_adapter(tmp_path / "adapter.gguf", {name: update}, architecture=architecture)
    logits = []
    for updates in ({}, {name: update.product(ALPHA, 0.1)}):
        model = Model(library, write_tiny_architecture(tmp_path / "model.gguf", architecture, tiny, updates))
        backend = SingleContextBackend(model, ContextOptions(256, 64, THREADS, sequence_ids=4))
        adapter = backend.load_adapter(adapter_file, 0.1)
        logits += [_logits(backend, SHORT, adapter), _logits(backend, SHORT)]
        backend.close()
        model.close()
    adapted, base, _, expected = logits
    assert np.allclose(adapted, expected, atol=0.01)
    assert not np.allclose(base, expected, atol=0.1)


_QUERY = "blk.0.attn_q.weight"


@pytest.mark.parametrize(
    ("weight", "a", "b"),
    [
        (_QUERY, np.ones((4, WIDTH), np.int32), np.ones((WIDTH, 4), np.int32)),
        (_QUERY, np.ones((4, WIDTH)), np.ones((WIDTH, 4))),
        (_QUERY, np.ones((2, 4, WIDTH), np.float32), np.ones((WIDTH, 4), np.float32)),
        (_QUERY, np.ones((4, WIDTH), np.float32), np.ones((3, WIDTH, 4), np.float32)),
        ("token_embd.weight", np.ones((VOCABULARY, 4), np.float32), np.ones((WIDTH, 5), np.float32)),
        (_QUERY, np.ones((5000, WIDTH), np.float32), np.ones((WIDTH, 5000), np.float32)),
    ],
    ids=["integers", "64 bits", "A in layers", "B in layers", "two ranks", "a rank that fills the memory"],
)
def test_an_adapter_whose_computation_would_end_the_process_is_refused(
    tiny: Model, tmp_path: Path, weight: str, a: np.ndarray, b: np.ndarray
) -> None:
    # Where llama.cpp loads such a file, its first token is a segmentation fault or a failed assertion.
    path = write_adapter(tmp_path / "hostile.gguf", {weight: LowRank(b, a)})
    _assert_refused(tiny, path, rf"its (tensor|matrices of|rank of \d+ is larger than) {weight}")


def test_an_adapter_of_an_input_matrix_that_is_the_output_matrix_too_is_refused(
    library: Library, tmp_path: Path
) -> None:
    tied = {name: weight for name, weight in WEIGHTS.items() if name != "output.weight"}
    model = Model(library, write_model(tmp_path / "tied.gguf", tied))
    update = LowRank(random_tensor(WIDTH, 4), random_tensor(VOCABULARY, 4, seed=1))
    _assert_refused(
        model, write_adapter(tmp_path / "embedding.gguf", {"token_embd.weight": update}), "is the output matrix"
    )
    model.close()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_an_adapter_with_which_a_model_computes_no_numbers_is_refused(
    backend: LlamaBackend, tmp_path: Path, value: float
) -> None:
    before = _logits(backend, SHORT)
    update = LowRank(np.full((WIDTH, 4), value, np.float32), np.full((4, WIDTH), value, np.float32))
    path = write_adapter(tmp_path / "endless.gguf", {_QUERY: update})
    with pytest.raises(ModelError, match=r"endless\.gguf cannot be used .* no numbers"):
        backend.load_adapter(path, 1.0)
    assert np.array_equal(_logits(backend, SHORT), before)


def _assert_refused(model: Model, path: Path, reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        LoraAdapter(model, path, 1.0)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def _backend(model: Model, *, reproducible: bool = False) -> LlamaBackend:
    return LlamaBackend(model, ContextOptions(1024, 256, threads=THREADS, reproducible=reproducible))


def _expected(model: Model, tokens: np.ndarray) -> Logits:
    backend = _backend(model)
    logits = _logits(backend, tokens)
    backend.close()
    return logits


def _logits(backend: SingleContextBackend, tokens: np.ndarray, adapter: int = NO_ADAPTER) -> Logits:
    """Compute the logits after the tokens. The last one is decoded in a separate step."""
    backend.decode([Chunk(0, 0, tokens[:-1], False)], adapter)
    logits: Logits = backend.decode([Chunk(0, len(tokens) - 1, tokens[-1:], True)], adapter)[0].copy()
    backend.forget(0)
    return logits


def _answers(model: Model, backend: LlamaBackend, adapters: list[int]) -> dict[RequestKey, list[int]]:
    """Answer the same prompt with each of the adapters, all together."""
    batcher = Batcher(backend, model.vocabulary, max_sequences=9, max_batched_tokens=64, host_cache_tokens=1024)
    greedy = SamplingParams(temperature=0.0, ignore_eos=True)
    for number, adapter in enumerate(adapters):
        batcher.add(EngineRequest((0, number), LONG[:50], greedy, 30, adapter=adapter), 1, seed=1)
    return tokens_by_request(run_until_idle(batcher))
