"""The checks that a library computes correctly the model that it will serve."""

import contextlib
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dragoman.core import logs
from dragoman.engines.llama.arrays import Logits
from dragoman.engines.llama.native.backend import Chunk
from dragoman.engines.llama.native.context import LlamaContext
from dragoman.engines.llama.native.embedding_context import Vectors
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.libraries.builds import LLAMA_CPP
from dragoman.engines.llama.native.libraries.choice import load_library
from dragoman.engines.llama.native.libraries.ik_llama_cpp import IkLlamaCpp
from dragoman.engines.llama.native.libraries.llama_cpp import LlamaCpp
from dragoman.engines.llama.native.model import Model, Vocabulary
from dragoman.engines.llama.native.parallel_contexts import ParallelContexts
from dragoman.engines.llama.weights.digests import cache_folder, file_signature, write_cached

_log = logs.get_logger(__name__)

_PASSED, _FAILED = b"right", b"wrong"
"""The contents of a file with a cached result."""

_PROBE_CELLS = 256
_LARGE_BATCH = 40
"""ik_llama.cpp has separate kernels for 32 tokens and more."""
_SMALL_BATCH = 10
_SINGLE_STEPS = 3

_PROBE_LENGTHS = (40, *range(1, 10))
"""Of the inputs whose vectors are compared."""

_LEAST_COSINE = 0.9999
"""Different rounding gives about 0.9999999, a lost token much less."""

_PROBE_TEXT = (
    "<|im_start|>user\nWe've 3.14159 or 1,234,567 REASONS — don't we?  (1) naïve café, Straße; (2) 你好 世界; "
    '(3) שלום, Привет, 🙂🏽\r\n\tfor (int i = 0; i < 10; ++i) {\n\t\tx[i] += f"{y:>8}";\n\t}\n\n\n<|im_end|></s> '
)
"""Letters, digits, blanks and markup, which the rules of vocabularies treat differently."""

_MAX_DIVERGENCE = 0.2
"""Kullback-Leibler divergence, mean over the tokens. Different rounding gives about 0.01, wrong kernels 1 and more."""


def is_equivalent(model: Model, threads: int) -> bool:
    """Whether the model's library agrees with llama.cpp. The result is cached until the file changes."""
    check = f"{IkLlamaCpp.pinned} agrees with {LlamaCpp.pinned}"
    agrees = load_check(model.path, check)
    if agrees is None:
        agrees = agrees_with_llama_cpp(model, threads)
        store_check(model.path, check, passed=agrees)
        if not agrees:
            # ik_llama.cpp expects other tokens in it.
            _log.warning("model_computed_by_llama_cpp", model=model.path.name)
    return agrees


def computes_same_vectors(context: ParallelContexts, open_reference: Callable[[], ParallelContexts]) -> bool:
    """Whether a context computes the vectors of llama.cpp's. The result is cached until the file changes."""
    check = f"{IkLlamaCpp.pinned} has the vectors of {LlamaCpp.pinned}"
    agrees = load_check(context.model.path, check)
    if agrees is None:
        with ThreadPoolExecutor(1) as executor:  # See agrees_with_llama_cpp.
            agrees = executor.submit(lowest_cosine, context, open_reference).result() > _LEAST_COSINE
        store_check(context.model.path, check, passed=agrees)
        if not agrees:
            _log.warning("vectors_computed_by_llama_cpp", model=context.model.path.name)
    return agrees


def lowest_cosine(context: ParallelContexts, open_reference: Callable[[], ParallelContexts]) -> float:
    """Return the lowest cosine of a vector and that of another context, in a batch and alone. NaN never passes."""
    reference = open_reference()
    source = np.random.default_rng(0)
    lengths = [min(length, context.longest) for length in _PROBE_LENGTHS]
    sequences = [source.integers(0, context.model.vocabulary.size, length).astype(np.int32) for length in lengths]
    try:
        batches = (sequences, *([sequence] for sequence in sequences))
        cosines = [_cosines(context.compute(batch), reference.compute(batch)) for batch in batches]
        return float(np.concatenate(cosines).min())
    finally:
        reference.close()


def _cosines(one: Vectors, other: Vectors) -> npt.NDArray[np.float64]:
    first, second = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    cosines: npt.NDArray[np.float64] = (first * second).sum(axis=-1) / lengths
    return cosines


def is_independent_of_batch(model: Model, threads: int) -> bool:
    """Whether a sequence has the same logits in a batch and in pieces as alone and at once.

    llama.cpp mixes up the states of some architectures. The result is cached until the file changes.
    """
    check = f"{model.library.version()} computes batches and pieces"
    passes = load_check(model.path, check)
    if passes is None:
        passes = divergence_from_alone(model, threads) < _MAX_DIVERGENCE
        store_check(model.path, check, passed=passes)
    return passes


def divergence_from_alone(model: Model, threads: int) -> float:
    """Measure the divergence of two sequences of a batch, and of each in two pieces, from each of them alone."""
    tokens = np.random.default_rng(0).integers(0, model.vocabulary.size, (2, _SMALL_BATCH)).astype(np.int32)
    chunks = [Chunk(number, 0, one, _SMALL_BATCH) for number, one in enumerate(tokens)]
    context = LlamaContext(model, ContextOptions(_PROBE_CELLS, 2 * _SMALL_BATCH, threads, sequence_ids=2))
    try:
        together = context.decode(chunks).copy()
        for number in range(2):
            context.forget(number)
        alone = np.concatenate([context.decode([chunk]).copy() for chunk in chunks])
        for number in range(2):
            context.forget(number)
        in_pieces = [context.decode([piece]).copy() for chunk in chunks for piece in _halves(chunk)]
        return max(mean_kl_divergence(alone, found) for found in (together, np.concatenate(in_pieces)))
    finally:
        context.close()


def _halves(chunk: Chunk) -> tuple[Chunk, Chunk]:
    half = len(chunk.tokens) // 2
    first, second = chunk.tokens[:half], chunk.tokens[half:]
    return (
        Chunk(chunk.sequence_id, 0, first, len(first)),
        Chunk(chunk.sequence_id, half, second, len(second)),
    )


def agrees_with_llama_cpp(model: Model, threads: int) -> bool:
    """Whether both libraries predict the same tokens, in batches of all sizes."""
    # OpenMP keeps the threads it has started for a computing thread as long as that thread lives. If there are more
    # than cores, all of them sleep immediately instead of spinning for a moment.
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(divergence_from_llama_cpp, model, threads).result() < _MAX_DIVERGENCE


def divergence_from_llama_cpp(model: Model, threads: int) -> float:
    """Measure the divergence of the two libraries. Infinite if they tokenize differently."""
    reference = Model(load_library(LLAMA_CPP), model.path)
    try:
        if not tokenizes_identically(model.vocabulary, reference.vocabulary):
            return np.inf
        return mean_kl_divergence(_probe_logits(reference, threads), _probe_logits(model, threads))
    finally:
        reference.close()


def tokenizes_identically(one: Vocabulary, other: Vocabulary) -> bool:
    """Whether two libraries tokenize a text into the same tokens, and have the same control tokens and end tokens."""
    return (
        one.tokenize(_PROBE_TEXT).tolist() == other.tokenize(_PROBE_TEXT).tolist()
        and one.control_tokens.texts == other.control_tokens.texts
        and one.end_token_ids == other.end_token_ids
        and (one.bos_text, one.eos_text) == (other.bos_text, other.eos_text)
    )


def _probe_logits(model: Model, threads: int) -> Logits:
    """Compute the logits of two sequences with interleaved cells: float32[tokens, vocabulary]."""
    tokens = np.random.default_rng(0).integers(0, model.vocabulary.size, (2, _PROBE_CELLS)).astype(np.int32)
    batches = [
        [(0, _LARGE_BATCH)],
        [(1, _SMALL_BATCH), (0, _SMALL_BATCH)],
        *([(0, 1), (1, 1)] for _ in range(_SINGLE_STEPS)),
    ]
    ends = [0, 0]
    found: list[Logits] = []
    context = LlamaContext(model, ContextOptions(_PROBE_CELLS, _LARGE_BATCH, threads))
    try:
        for batch in batches:
            chunks = []
            for number, length in batch:
                start, ends[number] = ends[number], ends[number] + length
                chunks.append(Chunk(number, start, tokens[number, start : ends[number]], length))
            found.append(context.decode(chunks).copy())
    finally:
        context.close()
    return np.concatenate(found)


def mean_kl_divergence(expected: Logits, found: Logits) -> float:
    """Return the mean Kullback-Leibler divergence of the rows' distributions. Infinite if a logit is not finite."""
    if not (np.isfinite(expected).all() and np.isfinite(found).all()):
        return np.inf
    return float(kl_divergences(expected, found).mean())


def kl_divergences(expected: Logits, found: Logits) -> npt.NDArray[np.float64]:
    """Return the Kullback-Leibler divergence of each row's distribution."""
    expected_log, found_log = log_softmax(expected), log_softmax(found)
    divergences: npt.NDArray[np.float64] = (np.exp(expected_log) * (expected_log - found_log)).sum(axis=-1)
    return divergences


def log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """Return the log-probabilities of the logits, in float64."""
    exact = logits.astype(np.float64)
    logprobs: npt.NDArray[np.float64] = exact - np.logaddexp.reduce(exact, axis=-1, keepdims=True)
    return logprobs


def load_check(model: Path, check: str) -> bool | None:
    """Return the cached result of a check of the file as it is now. None if there is no result."""
    try:
        return {_PASSED: True, _FAILED: False}.get((cache_folder() / _cache_name(model, check)).read_bytes())
    except OSError:
        return None


def store_check(model: Path, check: str, *, passed: bool) -> None:
    """Cache the result of a check. If the cache cannot be written, the check runs again next time."""
    with contextlib.suppress(OSError):
        write_cached(_cache_name(model, check), _PASSED if passed else _FAILED)


def _cache_name(model: Path, check: str) -> str:
    facts = (str(model.resolve()), *file_signature(model.stat()), check)
    return f"verdicts/{hashlib.sha256(repr(facts).encode()).hexdigest()}"
