"""The effect of sharing and batching on answers of the real model."""

from collections.abc import Iterator

import numpy as np
import pytest

from dragoman.core.request import SamplingParams
from dragoman.engines.llama.arrays import Logits, TokenArray
from dragoman.engines.llama.batching.batcher import Batcher
from dragoman.engines.llama.batching.sequence import EngineRequest, RequestKey
from dragoman.engines.llama.batching.speculation import MAX_DRAFT_TOKENS
from dragoman.engines.llama.native.backend import Chunk
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.library_check import mean_kl_divergence
from dragoman.engines.llama.native.llama_backend import LlamaBackend
from dragoman.engines.llama.native.model import Model
from tests.support.batching import run_until_idle, tokens_by_request
from tests.support.models import THREADS

TOPICS = [
    "the sea",
    "a red bicycle",
    "baking bread",
    "the colour of the sky",
    "the history of Rome",
    "prime numbers",
    "a cat named Tom",
    "the French Revolution",
    "writing a letter",
    "volcanoes",
    "the Moon",
    "photosynthesis",
    "chess",
    "the Nile",
    "rain",
    "bees",
    "democracy",
    "gravity",
    "tea",
    "winter",
]

SYSTEM = "You are a patient teacher. " + "Explain every word that a child might not know. " * 20

GREEDY = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)

MAX_DIVERGENCE = 0.05
"""Kullback-Leibler divergence allowed where ggml adds the same numbers up in another order.

Float16 sums differ in their last bits; the 8-bit activations between layers now and then round to another step for it.
"""


@pytest.fixture(scope="module", params=["model", "fast_model"])
def fast(request: pytest.FixtureRequest) -> Iterator[LlamaBackend]:
    """As the file is shipped, and as it is served."""
    yield from _backend(request.getfixturevalue(request.param), reproducible=False)


@pytest.fixture(scope="module")
def shallow(shallow_model: Model) -> Iterator[LlamaBackend]:
    """The same operations in the same shapes, fewer times; conformance tests ask the whole model."""
    yield from _backend(shallow_model, reproducible=True)


@pytest.fixture(scope="module")
def alone(shallow_model: Model, shallow: LlamaBackend) -> dict[RequestKey, list[int]]:
    """Greedy answers, computed one after another. Parts of them repeat, so that drafts are accepted."""
    batcher = _batcher(shallow_model, shallow, GREEDY, max_sequences=1)
    answers = tokens_by_request(run_until_idle(batcher))
    assert batcher.accepted_draft_tokens
    return answers


def test_reproducible_greedy_answers_alone_and_in_a_full_batch_are_the_same_tokens(
    shallow_model: Model, shallow: LlamaBackend, alone: dict[RequestKey, list[int]]
) -> None:
    assert len(TOPICS) >= 20
    assert len({tuple(tokens) for tokens in alone.values()}) > 1
    assert _answers(shallow_model, shallow, GREEDY, max_sequences=16) == alone


def test_reproducible_answers_are_the_same_tokens_with_and_without_drafts(
    shallow_model: Model, shallow: LlamaBackend, alone: dict[RequestKey, list[int]]
) -> None:
    batcher = _batcher(shallow_model, shallow, GREEDY, max_sequences=1, max_draft_tokens=0)
    assert tokens_by_request(run_until_idle(batcher)) == alone
    assert batcher.drafted_tokens == 0


def test_reproducible_answers_do_not_depend_on_how_few_cells_there_are(
    shallow_model: Model, alone: dict[RequestKey, list[int]]
) -> None:
    tight = LlamaBackend(shallow_model, ContextOptions(512, 512, threads=THREADS, reproducible=True))
    try:
        assert _answers(shallow_model, tight, GREEDY, max_sequences=16) == alone
    finally:
        tight.close()


def test_saved_cells_give_the_logits_they_gave_before_wherever_they_are_put_back(
    model: Model, fast: LlamaBackend
) -> None:
    tokens = _prompt(model, "What is rain?", SYSTEM)
    fast.decode([Chunk(0, 0, tokens[:-1], False)])
    saved = fast.save(0)
    before = fast.decode([Chunk(0, len(tokens) - 1, tokens[-1:], True)])[0].copy()
    fast.forget(0)
    for sequence_id in range(1, 20):
        fast.decode([Chunk(sequence_id, 0, tokens[:8], False)])
    for sequence_id in range(1, 20, 2):
        fast.forget(sequence_id)
    assert fast.restore(0, saved)
    after = fast.decode([Chunk(0, len(tokens) - 1, tokens[-1:], True)])[0].copy()
    for sequence_id in (0, *range(2, 20, 2)):
        fast.forget(sequence_id)
    assert mean_kl_divergence(before, after) < MAX_DIVERGENCE


def test_a_token_computed_after_rejected_ones_gets_the_logits_it_gets_without_them(
    model: Model, fast: LlamaBackend
) -> None:
    tokens = _prompt(model, "What is rain?", "Be brief.")
    known, rejected = len(tokens) - 4, np.repeat(tokens[:1], 12)
    fresh = _logits(fast, 0, tokens)
    fast.forget(0)
    fast.decode([Chunk(0, 0, tokens[:known], 1)])
    fast.decode([Chunk(0, known, np.concatenate((tokens[known : known + 2], rejected)), 13)])
    fast.truncate(0, known + 2)
    after = fast.decode([Chunk(0, known + 2, tokens[known + 2 :], 1)])[0].copy()
    fast.forget(0)
    assert mean_kl_divergence(fresh, after) < MAX_DIVERGENCE


def test_cells_that_do_not_fit_are_refused_and_nothing_else_is_harmed(model: Model) -> None:
    small = LlamaBackend(model, ContextOptions(256, 256, threads=THREADS))
    try:
        tokens = _prompt(model, "What is rain?", "Be brief.")
        before = _logits(small, 0, tokens)
        saved = small.save(0)
        for sequence_id in range(1, 1 + 256 // len(tokens)):
            refused = not small.restore(sequence_id, saved)
        assert refused
        small.forget(0)
        assert np.array_equal(_logits(small, 0, tokens), before)
    finally:
        small.close()


def test_reproducible_sampling_with_a_seed_does_not_depend_on_the_batch(
    shallow_model: Model, shallow: LlamaBackend
) -> None:
    sampled = SamplingParams(temperature=1.0, top_p=0.95, max_tokens=12, ignore_eos=True)
    alone, together = (
        _answers(shallow_model, shallow, sampled, max_sequences=max_sequences) for max_sequences in (1, 16)
    )
    assert alone == together


def test_reproducible_logits_over_a_shared_prefix_are_bit_for_bit_those_of_a_fresh_computation(
    shallow_model: Model, shallow: LlamaBackend
) -> None:
    shared, fresh = _shared_and_fresh_logits(shallow_model, shallow)
    assert np.array_equal(shared, fresh)


def test_logits_over_a_shared_prefix_equal_those_of_a_fresh_computation_within_float_tolerance(
    model: Model, fast: LlamaBackend
) -> None:
    shared, fresh = _shared_and_fresh_logits(model, fast)
    assert mean_kl_divergence(fresh, shared) < MAX_DIVERGENCE


def test_a_shared_prefix_is_no_further_from_a_fresh_computation_than_two_fresh_ones_may_be(
    model: Model, fast: LlamaBackend
) -> None:
    """Sharing adds no error of its own: another place in the cache moves the logits as much."""
    tokens = _prompt(model, "What is rain?", SYSTEM)
    here = _logits(fast, 0, tokens)
    other = _prompt(model, "Something else entirely", "Nothing")
    _logits(fast, 1, other)
    elsewhere = _logits(fast, 2, tokens)
    for sequence_id in range(3):
        fast.forget(sequence_id)
    assert mean_kl_divergence(here, elsewhere) < MAX_DIVERGENCE


def test_sequences_whose_cells_lie_between_each_other_get_the_logits_they_get_alone(
    model: Model, fast: LlamaBackend
) -> None:
    prompts = [_prompt(model, f"Tell me about {topic}.", f"You know {topic} well.") for topic in TOPICS[:8]]
    alone = []
    for prompt in prompts:
        alone.append(_logits(fast, 0, prompt))
        fast.forget(0)
    fast.decode([Chunk(number, 0, prompt[:-3], False) for number, prompt in enumerate(prompts)])
    for left in (3, 2, 1):
        ends = [(prompt, len(prompt) - left) for prompt in prompts]
        chunks = [Chunk(number, end, prompt[end : end + 1], True) for number, (prompt, end) in enumerate(ends)]
        together = fast.decode(chunks).copy()
    for number in range(len(prompts)):
        fast.forget(number)
    assert max(map(mean_kl_divergence, alone, together)) < MAX_DIVERGENCE


def _backend(model: Model, *, reproducible: bool) -> Iterator[LlamaBackend]:
    backend = LlamaBackend(model, ContextOptions(8192, 512, threads=THREADS, reproducible=reproducible))
    yield backend
    backend.close()


def _prompt(model: Model, question: str, system: str) -> TokenArray:
    return model.vocabulary.tokenize(
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    )


def _answers(
    model: Model, backend: LlamaBackend, sampling: SamplingParams, *, max_sequences: int
) -> dict[RequestKey, list[int]]:
    """The tokens every topic gets when `max_sequences` are answered together."""
    return tokens_by_request(run_until_idle(_batcher(model, backend, sampling, max_sequences=max_sequences)))


def _batcher(
    model: Model,
    backend: LlamaBackend,
    sampling: SamplingParams,
    *,
    max_sequences: int,
    max_draft_tokens: int = MAX_DRAFT_TOKENS,
) -> Batcher:
    """A batcher with a question about every topic, whose steps all take the same time, so that drafts pay."""
    batcher = Batcher(
        backend,
        model.vocabulary,
        max_sequences=max_sequences,
        max_batched_tokens=256,
        host_cache_tokens=2048,
        max_draft_tokens=max_draft_tokens,
        clock=lambda: 0.0,
    )
    assert sampling.max_tokens is not None
    for number, topic in enumerate(TOPICS):
        prompt = _prompt(model, f"Tell me about {topic}.", "You are a helpful assistant.")
        batcher.add(EngineRequest((0, number), prompt, sampling, sampling.max_tokens), 1, seed=number)
    return batcher


def _shared_and_fresh_logits(model: Model, backend: LlamaBackend) -> tuple[Logits, Logits]:
    """Logits after a prompt: once over another sequence's prefix, once computed whole."""
    donor, tokens = _prompt(model, "What is snow?", SYSTEM), _prompt(model, "What is rain?", SYSTEM)
    different = np.flatnonzero(donor[: len(tokens)] != tokens[: len(donor)])
    common = int(different[0])
    assert common > 200
    _logits(backend, 0, donor)
    backend.share(0, 1, 0, common)
    shared = backend.decode([Chunk(1, common, tokens[common:], True)])[0].copy()
    fresh = _logits(backend, 2, tokens)
    for sequence_id in range(3):
        backend.forget(sequence_id)
    return shared, fresh


def _logits(backend: LlamaBackend, sequence_id: int, tokens: TokenArray) -> Logits:
    logits: Logits = backend.decode([Chunk(sequence_id, 0, tokens, True)])[0].copy()
    return logits
