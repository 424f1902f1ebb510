"""Sequences in several contexts give the logits that they give in one."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.request import SamplingParams
from dragoman.engines.llama.arrays import Logits, TokenArray
from dragoman.engines.llama.batching.batcher import Batcher, RequestOutput
from dragoman.engines.llama.batching.sequence import EngineRequest, RequestKey
from dragoman.engines.llama.native.backend import Chunk
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.libraries.builds import IK_LLAMA_CPP, LLAMA_CPP
from dragoman.engines.llama.native.libraries.choice import load_library
from dragoman.engines.llama.native.llama_backend import LlamaBackend, LoraFallbackBackend, PartitionedBackend
from dragoman.engines.llama.native.loading import open_backend
from dragoman.engines.llama.native.model import Model
from dragoman.engines.llama.native.partitioned_decoder import split_into_batches
from dragoman.engines.llama.weights.cell_size import CellSize
from tests.support.batching import tokens_by_request
from tests.support.libraries import requires_ik_llama_cpp
from tests.support.tiny_llama import VOCABULARY, random_weights, write_model

OPTIONS = ContextOptions(512, 128, threads=2)
SMALL = CellSize(bytes=1024, step_cells=10)
TOLERANCE = 1e-3
"""The kernels for a batch of another size round otherwise."""


def tokens(seed: int, count: int) -> TokenArray:
    return np.random.default_rng(seed).integers(3, VOCABULARY, count).astype(np.int32)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = write_model(tmp_path_factory.mktemp("model") / "tiny.gguf", random_weights(0))
    model = Model(load_library(LLAMA_CPP), path)
    yield model
    model.close()


@pytest.fixture
def whole(tiny: Model) -> Iterator[LlamaBackend]:
    backend = LlamaBackend(tiny, OPTIONS)
    yield backend
    backend.close()


@pytest.fixture
def partitioned(tiny: Model) -> Iterator[PartitionedBackend]:
    backend = PartitionedBackend(tiny, OPTIONS, 3, SMALL)
    yield backend
    backend.close()


@pytest.mark.parametrize("lengths", [(5, 5, 5, 5), (3, 90, 4), (1, 2), (70, 5, 40, 3)])
def test_logits_come_in_the_order_of_the_chunks(
    whole: LlamaBackend, partitioned: PartitionedBackend, lengths: tuple[int, ...]
) -> None:
    chunks = [Chunk(number, 0, tokens(number, length), min(2, length)) for number, length in enumerate(lengths)]
    for chunk in chunks:
        assert partitioned.place(chunk.sequence_id, chunk.sequence_id % 3) == chunk.sequence_id % 3
    assert_close(partitioned.decode(chunks), whole.decode(chunks))
    following = [Chunk(number, length, tokens(number, 1), 1) for number, length in enumerate(lengths)]
    assert_close(partitioned.decode(following), whole.decode(following))


def test_a_prompt_longer_than_a_batch_is_computed_where_it_is_held(partitioned: PartitionedBackend) -> None:
    partitioned.place(1, 1)
    expected = partitioned.decode([Chunk(0, 0, tokens(0, 120), 1)]).copy()
    for start in range(0, 110, 10):
        partitioned.decode([Chunk(1, start, tokens(0, 120)[start : start + 10], 0)])
    partitioned.truncate(1, 20)
    assert_close(partitioned.decode([Chunk(1, 20, tokens(0, 120)[20:], 1)]), expected)


def test_cells_are_copied_to_another_partition_and_survive_their_source(
    whole: LlamaBackend, partitioned: PartitionedBackend
) -> None:
    text = tokens(7, 40)
    for backend in (whole, partitioned):
        backend.decode([Chunk(0, 0, text, 0)])
    partitioned.place(1, 2)
    for backend in (whole, partitioned):
        backend.share(0, 1, 0, 25)
        backend.share(0, 1, 25, 39)
        backend.forget(0)
    last = [Chunk(1, 39, text[39:], 1)]
    assert_close(partitioned.decode(last), whole.decode(last))


def test_a_saved_sequence_is_restored_where_it_is_placed(partitioned: PartitionedBackend) -> None:
    text = tokens(8, 30)
    partitioned.decode([Chunk(0, 0, text[:29], 0)])
    partitioned.place(1, 2)
    assert partitioned.restore(1, partitioned.save(0))
    first, second = partitioned.decode([Chunk(0, 29, text[29:], 1), Chunk(1, 29, text[29:], 1)])
    assert_close(first, second)


def test_without_memory_for_another_partition_there_are_no_more(tiny: Model) -> None:
    backend = PartitionedBackend(tiny, OPTIONS, 3, CellSize(bytes=2**50, step_cells=10))
    assert backend.place(1, 2) == 0
    assert backend.partitions == 1
    backend.close()


def test_answers_are_those_of_one_partition(tiny: Model) -> None:
    prefix = tokens(1, 60)
    prompts = [
        np.concatenate((prefix[: 60 * (number % 2)], tokens(10 + number, 20 + 7 * number))) for number in range(5)
    ]
    whole, partitioned = LlamaBackend(tiny, OPTIONS), PartitionedBackend(tiny, OPTIONS, 3, SMALL)
    answers = [_answers(backend, tiny, prompts) for backend in (whole, partitioned)]
    assert answers[0] == answers[1]
    assert partitioned.partitions == 3
    for backend in (whole, partitioned):
        backend.close()


def _answers(backend: LlamaBackend, model: Model, prompts: list[TokenArray]) -> dict[RequestKey, list[int]]:
    """Answer all prompts at once, with too few cells for all of them, and then again."""
    batcher = Batcher(
        backend, model.vocabulary, max_sequences=4, max_batched_tokens=64, host_cache_tokens=256, max_draft_tokens=0
    )
    outputs: list[RequestOutput] = []
    for round_number in range(2):
        for number, prompt in enumerate(prompts):
            key = (round_number, number)
            batcher.add(EngineRequest(key, prompt, SamplingParams(temperature=0.0, ignore_eos=True), 6), 1, 1)
        while not batcher.is_idle:
            outputs += batcher.step()
    return tokens_by_request(outputs)


@requires_ik_llama_cpp
def test_only_the_library_without_flash_attention_has_partitions(tiny: Model) -> None:
    flash = open_backend(tiny, OPTIONS, partitions=4)
    assert isinstance(flash, LlamaBackend)
    assert flash.partitions == 1
    other = Model(load_library(IK_LLAMA_CPP), tiny.path)
    backend = open_backend(other, OPTIONS, partitions=4)
    assert isinstance(backend, LoraFallbackBackend)
    assert backend.partitions == 4
    assert backend.step_cells > 0
    assert [backend.place(number, number) for number in range(4)] == [0, 1, 2, 3]
    assert np.isfinite(backend.decode([Chunk(number, 0, tokens(number, 9), 1) for number in range(4)])).all()


@given(
    st.lists(st.integers(1, 30).flatmap(lambda length: st.tuples(st.just(length), st.integers(0, length)))),
    st.integers(1, 12),
)
def test_batches_have_all_tokens_and_outputs_in_their_order(sizes: list[tuple[int, int]], size: int) -> None:
    chunks = [
        Chunk(number, 5, np.arange(length, dtype=np.int32), outputs) for number, (length, outputs) in enumerate(sizes)
    ]
    batches = list(split_into_batches(chunks, size))
    assert all(sum(len(chunk.tokens) for chunk in batch) <= size for batch in batches)
    assert wanted([chunk for batch in batches for chunk in batch]) == wanted(chunks)


def wanted(chunks: list[Chunk]) -> list[tuple[int, int, int, bool]]:
    """Return sequence, position and token of each row of the chunks, and whether its logits are wanted."""
    return [
        (chunk.sequence_id, chunk.position + index, token, index >= len(chunk.tokens) - chunk.outputs)
        for chunk in chunks
        for index, token in enumerate(chunk.tokens.tolist())
    ]


def assert_close(ours: Logits, theirs: Logits) -> None:
    assert np.abs(ours - theirs).max() < TOLERANCE * np.abs(theirs).max()
