"""ik_llama.cpp gives the results of llama.cpp, for a small model that both compute."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dragoman.engines.llama.arrays import Logits, TokenArray
from dragoman.engines.llama.native.backend import Chunk, DecodeError
from dragoman.engines.llama.native.context import LlamaContext
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.libraries.builds import IK_LLAMA_CPP, LLAMA_CPP
from dragoman.engines.llama.native.libraries.choice import load_library
from dragoman.engines.llama.native.library_check import mean_kl_divergence
from dragoman.engines.llama.native.llama_backend import LlamaBackend
from dragoman.engines.llama.native.model import Model, ModelError
from tests.support.libraries import requires_ik_llama_cpp
from tests.support.models import THREADS
from tests.support.tiny_llama import VOCABULARY, random_weights, write_model

pytestmark = requires_ik_llama_cpp

CELLS = 256
MAX_DIVERGENCE = 0.01
"""Kullback-Leibler divergence: keys and values have 16 bits, and are summed in another order."""

LONGEST = 40


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny.gguf", random_weights(0))


@pytest.fixture(scope="module")
def tiny(path: Path) -> Iterator[Model]:
    model = Model(load_library(IK_LLAMA_CPP), path)
    yield model
    model.close()


@pytest.fixture(scope="module")
def reference(path: Path) -> Iterator[LlamaContext]:
    model = Model(load_library(LLAMA_CPP), path)
    context = LlamaContext(model, ContextOptions(CELLS, CELLS, threads=THREADS))
    yield context
    context.close()
    model.close()


def test_both_libraries_read_the_same_of_the_vocabulary(tiny: Model, path: Path) -> None:
    other = Model(load_library(LLAMA_CPP), path)
    ours, theirs = tiny.vocabulary, other.vocabulary
    text = "<|im_start|>user\nWhat's 12 × 3? Ünïcödé<|im_end|>\n"
    assert ours.tokenize(text).tolist() == theirs.tokenize(text).tolist()
    assert [ours.piece(token) for token in range(ours.size)] == [theirs.piece(token) for token in range(theirs.size)]
    assert [ours.is_special(token) for token in range(ours.size)] == [
        theirs.is_special(token) for token in range(theirs.size)
    ]
    assert (ours.bos_text, ours.eos_text, ours.end_token_ids) == (
        theirs.bos_text,
        theirs.eos_text,
        theirs.end_token_ids,
    )
    assert (tiny.chat_template, tiny.trained_context_length) == (other.chat_template, other.trained_context_length)
    other.close()


operations = st.lists(
    st.tuples(
        st.sampled_from(["begin", "begin", "go on", "go on", "go on", "share", "forget", "move"]),
        st.integers(0, 11),
        st.integers(0, 11),
        st.integers(1, LONGEST),
    ),
    min_size=5,
    max_size=60,
)


NO_VISIBLE_CELL_BELOW_A_HOLE = [
    ("begin", 0, 0, 1),
    ("begin", 2, 0, 17),
    ("begin", 3, 0, 10),
    ("begin", 4, 0, 3),
    ("go on", 0, 0, 1),
    ("begin", 1, 0, 1),
    ("forget", 0, 0, 1),
    ("begin", 0, 0, 2),
]
"""The last of the first 32 cells is free, and all cells of a sequence lie behind them."""

SOME_VISIBLE_CELLS_BELOW_A_HOLE = [
    ("begin", 0, 0, 31),
    ("begin", 1, 0, 1),
    ("go on", 0, 0, 32),
    ("forget", 1, 0, 1),
    ("go on", 0, 0, 8),
]
"""The same, but the sequence lies on both sides."""


@settings(max_examples=150, deadline=None)
@given(operations=operations)
@example(operations=NO_VISIBLE_CELL_BELOW_A_HOLE)
@example(operations=SOME_VISIBLE_CELLS_BELOW_A_HOLE)
def test_however_cells_lie_the_logits_are_those_of_llama_cpp_and_every_free_cell_can_be_used(
    tiny: Model, reference: LlamaContext, operations: list[tuple[str, int, int, int]]
) -> None:
    context = LlamaContext(tiny, ContextOptions(CELLS, CELLS, threads=THREADS))
    try:
        held = _MirroredContext(context, reference)
        for operation, one, other, length in operations:
            held.apply(operation, one, other, length)
        held.fill_up()
    finally:
        context.close()


def test_more_tokens_than_free_cells_are_refused_and_nothing_else_is_harmed(tiny: Model) -> None:
    context = LlamaContext(tiny, ContextOptions(CELLS, CELLS, threads=THREADS))
    try:
        before = context.decode([Chunk(0, 0, _tokens(0, 100), 1)]).copy()
        with pytest.raises(DecodeError, match="llama_decode returned 1 for 200 tokens"):
            context.decode([Chunk(1, 0, _tokens(1, 200), 1)])
        context.forget(0)
        assert np.array_equal(context.decode([Chunk(0, 0, _tokens(0, 100), 1)]), before)
    finally:
        context.close()


def test_reproducible_mode_is_refused(tiny: Model) -> None:
    with pytest.raises(ModelError, match="cannot compute reproducibly"):
        LlamaBackend(tiny, ContextOptions(CELLS, CELLS, threads=THREADS, reproducible=True))


class _MirroredContext:
    """A context whose sequences and cells are mirrored, and whose logits are compared with the reference."""

    def __init__(self, context: LlamaContext, reference: LlamaContext) -> None:
        self._context = context
        self._reference = reference
        self._sequences: dict[int, list[tuple[int, int]]] = {}
        """Sequence id → its tokens, each with the number of its cell."""
        self._last_cell = 0

    def apply(self, operation: str, one: int, other: int, length: int) -> None:
        match operation:
            case "begin" if one not in self._sequences:
                self._compute(one, length)
            case "go on" if one in self._sequences:
                self._compute(one, 1 + length // 8)
            case "share" if one in self._sequences and other not in self._sequences:
                kept = self._sequences[one][: length - 1]
                if kept:
                    self._context.share(one, other, 0, len(kept))
                    self._sequences[other] = list(kept)
            case "forget" if one in self._sequences:
                self._context.forget(one)
                del self._sequences[one]
            case "move" if one in self._sequences and other not in self._sequences:
                self._move(one, other)

    def fill_up(self) -> None:
        """Use all remaining cells for one batch."""
        if free := self._free():
            self._compute(20, free)

    def _move(self, one: int, other: int) -> None:
        tokens = self._sequences[one]
        if len(tokens) > self._free():
            return
        state = self._context.save(one)
        assert self._context.restore(other, state)
        self._sequences[other] = [(token, self._new_cell()) for token, _ in tokens]
        self._context.forget(one)
        del self._sequences[one]

    def _compute(self, one: int, count: int) -> None:
        if count > self._free():
            return
        before = self._sequences.setdefault(one, [])
        tokens = _tokens(self._last_cell, count)
        found = self._context.decode([Chunk(one, len(before), tokens, 1)])[0]
        before += [(token, self._new_cell()) for token in tokens.tolist()]
        expected = self._expected(np.array([token for token, _ in before], dtype=np.int32))
        assert mean_kl_divergence(expected, found) < MAX_DIVERGENCE

    def _expected(self, tokens: TokenArray) -> Logits:
        logits: Logits = self._reference.decode([Chunk(0, 0, tokens, 1)])[0].copy()
        self._reference.forget(0)
        return logits

    def _free(self) -> int:
        return CELLS - len({cell for tokens in self._sequences.values() for _, cell in tokens})

    def _new_cell(self) -> int:
        self._last_cell += 1
        return self._last_cell


def _tokens(seed: int, count: int) -> TokenArray:
    return np.random.default_rng(seed).integers(3, VOCABULARY, count).astype(np.int32)
