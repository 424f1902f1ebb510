"""The generation controls on the real model: the output of the batcher is checked against the model's logits."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence

import llguidance
import numpy as np
import pytest

from dragoman.core.errors import DragomanError, EngineFailed
from dragoman.core.events import Delta, Event, Finished, TokenLogprobs, Usage
from dragoman.core.request import SamplingParams
from dragoman.engines.llama.arrays import Logits
from dragoman.engines.llama.batching.batcher import Batcher
from dragoman.engines.llama.batching.sampler import Sampler
from dragoman.engines.llama.batching.sequence import EngineRequest
from dragoman.engines.llama.native.backend import NO_ADAPTER, Chunk
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.library_check import log_softmax
from dragoman.engines.llama.native.llama_backend import LlamaBackend
from dragoman.engines.llama.native.model import Model
from dragoman.output.bad_words import bad_word_tokens
from dragoman.output.constraint import GrammarCompiler
from tests.support import reference_sampling
from tests.support.batching import run_until_idle
from tests.support.models import THREADS

QUESTION = "<|im_start|>user\nName three animals and their legs.<|im_end|>\n<|im_start|>assistant\n"

MAX_STEPS = 2000

SCHEMA = {
    "type": "object",
    "properties": {
        "animals": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name_of_the_animal": {"type": "string", "maxLength": 10}, "legs": {"type": "integer"}},
                "required": ["name_of_the_animal", "legs"],
                "additionalProperties": False,
            },
            "minItems": 1,
            "maxItems": 2,
        }
    },
    "required": ["animals"],
    "additionalProperties": False,
}
GRAMMAR = llguidance.LLMatcher.grammar_from_json_schema(
    SCHEMA, overrides={"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
)


class RecordingBackend(LlamaBackend):
    """The real backend, which records every row of logits."""

    def __init__(self, model: Model, options: ContextOptions) -> None:
        super().__init__(model, options)
        self.rows: list[Logits] = []

    def decode(self, chunks: Sequence[Chunk], adapter: int = NO_ADAPTER) -> Logits:
        logits = super().decode(chunks, adapter)
        self.rows += [row.copy() for row in logits]
        return logits


@pytest.fixture(scope="module")
def model(shallow_model: Model) -> Model:
    """Two of its layers: what the controls do to logits depends on no layer."""
    return shallow_model


@pytest.fixture(scope="module")
def backend(model: Model) -> Iterator[RecordingBackend]:
    backend = RecordingBackend(model, ContextOptions(2048, 256, threads=THREADS))
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def fast_backend(fast_model: Model) -> Iterator[RecordingBackend]:
    """The whole model: one of two layers knows no end of a text."""
    backend = RecordingBackend(fast_model, ContextOptions(2048, 256, threads=THREADS))
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def compiler(model: Model) -> GrammarCompiler:
    return GrammarCompiler(model.vocabulary)


class CollectedAnswer:
    """The output of a request with one choice."""

    def __init__(self, events: Sequence[Event | DragomanError]) -> None:
        deltas = [event for event in events if isinstance(event, Delta)]
        self.text = "".join(delta.text for delta in deltas)
        self.tokens = [token for delta in deltas for token in delta.token_ids]
        self.logprobs = [reported for delta in deltas for reported in delta.logprobs]
        self.finished = [event for event in events if isinstance(event, Finished)]
        self.reasons = [event.reason for event in self.finished]
        self.usage = next((event for event in events if isinstance(event, Usage)), None)
        self.errors = [event for event in events if isinstance(event, EngineFailed)]


def generate(model: Model, backend: RecordingBackend, request: EngineRequest, seed: int = 1) -> CollectedAnswer:
    """Answer one request alone. `backend.rows` are its logits."""
    # With drafts, of which nobody knows how many there are, some rows would belong to no token. That answers with and
    # without them are equal is what test_speculation.py compares.
    batcher = Batcher(
        backend,
        model.vocabulary,
        max_sequences=4,
        max_batched_tokens=256,
        host_cache_tokens=0,
        max_draft_tokens=0,
    )
    backend.rows.clear()
    batcher.add(request, 1, seed)
    return CollectedAnswer([output.event for output in run_until_idle(batcher, MAX_STEPS)])


def request_of(model: Model, sampling: SamplingParams, limit: int = 24, prompt: str = QUESTION) -> EngineRequest:
    return EngineRequest((0, 0), model.vocabulary.tokenize(prompt), sampling, limit)


def assert_logprobs(reported: TokenLogprobs, token: int, row: Logits) -> None:
    expected = log_softmax(row).tolist()
    assert reported.token_id == token
    assert reported.logprob == pytest.approx(expected[token], abs=1e-4)
    assert [other.logprob for other in reported.top] == pytest.approx(sorted(expected, reverse=True)[:20], abs=1e-4)


def test_log_probabilities_are_those_of_the_raw_logits_whatever_sampling_does_to_them(
    model: Model, backend: RecordingBackend
) -> None:
    sampling = SamplingParams(
        temperature=0.7,
        top_k=5,
        top_p=0.8,
        repetition_penalty=1.3,
        logit_bias={model.vocabulary.tokenize("cat")[0]: 5.0},
    )
    request = request_of(model, sampling)
    request.logprobs = 20
    answer = generate(model, backend, request)
    assert len(answer.logprobs) >= 20
    assert b"".join(reported.token for reported in answer.logprobs).decode() == answer.text
    for reported, token, row in zip(answer.logprobs, answer.tokens, backend.rows, strict=False):
        assert_logprobs(reported, token, row)


def test_steps_may_be_smaller_than_the_number_of_sequence_ids(model: Model) -> None:
    """Otherwise llama.cpp, which reserves a row of logits for every id, ends the whole process."""
    small = LlamaBackend(model, ContextOptions(256, 16, threads=THREADS))
    try:
        assert small.decode([Chunk(0, 0, model.vocabulary.tokenize("Hello"), 1)]).shape == (1, model.vocabulary.size)
    finally:
        small.close()


def test_an_echoed_prompt_has_log_probabilities_too(model: Model, backend: RecordingBackend) -> None:
    text = "The capital of France is Paris, and the capital of Italy is Rome. " * 8
    request = EngineRequest(
        (0, 0), model.vocabulary.tokenize(text), SamplingParams(temperature=0.0), 2, echo=text, logprobs=20
    )
    assert len(request.prompt) > 64, "more than one step gives logits of"
    answer = generate(model, backend, request)
    assert answer.text.startswith(text)
    prompt = request.prompt.tolist()
    assert [reported.token_id for reported in answer.logprobs] == [*prompt, *answer.tokens]
    assert (answer.logprobs[0].logprob, answer.logprobs[0].top) == (None, [])
    for reported, token, row in zip(answer.logprobs[1:], [*prompt[1:], *answer.tokens], backend.rows, strict=True):
        assert_logprobs(reported, token, row)


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=0.0, repetition_penalty=1.4),
        SamplingParams(temperature=0.0, repetition_penalty=0.8),
        SamplingParams(temperature=0.0, frequency_penalty=1.5),
        SamplingParams(temperature=0.0, presence_penalty=2.0, frequency_penalty=-0.3),
    ],
)
def test_penalties_count_exactly_the_documented_tokens(
    model: Model, backend: RecordingBackend, sampling: SamplingParams
) -> None:
    request = request_of(model, sampling)
    answer = generate(model, backend, request)
    prompt = request.prompt.tolist()
    for position, (token, row) in enumerate(zip(answer.tokens, backend.rows, strict=True)):
        values = reference_sampling.adjusted_logits(row.tolist(), sampling, prompt, answer.tokens[:position])
        assert values[token] == pytest.approx(max(values), abs=1e-4)


def test_penalties_count_forced_tokens_as_generated(
    model: Model, backend: RecordingBackend, compiler: GrammarCompiler
) -> None:
    """The first free token is penalized for the text that the grammar forced before it."""
    sampling = SamplingParams(temperature=0.0, frequency_penalty=2.0, repetition_penalty=1.2)
    request = request_of(model, sampling, limit=16)
    request.constraint = compiler.compile('start: "cats cats cats cats" / [a-z ]+/', "response_format")
    answer = generate(model, backend, request)
    assert answer.text.startswith("cats cats cats cats")
    first_free = len(answer.tokens) - len(backend.rows)
    prompt = request.prompt.tolist()
    assert first_free > 0, "some were not sampled"
    values = reference_sampling.adjusted_logits(
        backend.rows[-1].tolist(), sampling, prompt, answer.tokens[: len(answer.tokens) - 1]
    )
    allowed = [
        token
        for token in range(model.vocabulary.size)
        if not model.vocabulary.is_special(token)
        and model.vocabulary.piece(token).decode(errors="replace").strip("abcdefghijklmnopqrstuvwxyz ") == ""
        and model.vocabulary.piece(token)
    ]
    assert values[answer.tokens[-1]] == pytest.approx(max(values[token] for token in allowed), abs=1e-4)


CHI_SQUARE_CASES = [
    SamplingParams(),
    SamplingParams(temperature=1.6),
    SamplingParams(temperature=0.6),
    SamplingParams(top_k=12),
    SamplingParams(top_p=0.8),
    SamplingParams(min_p=0.05),
    SamplingParams(temperature=1.3, top_k=40, top_p=0.9, min_p=0.02),
    SamplingParams(repetition_penalty=1.5),
    SamplingParams(frequency_penalty=0.7, presence_penalty=0.6),
    SamplingParams(logit_bias={11: 4.0, 253: 6.0, 28: -100.0}),
]


@pytest.mark.parametrize("sampling", CHI_SQUARE_CASES)
def test_sampled_frequencies_follow_the_documented_distribution(
    model: Model, backend: RecordingBackend, sampling: SamplingParams
) -> None:
    """A chi-square test on the real model's logits after a fixed prompt and a fixed beginning of an answer."""
    prompt = model.vocabulary.tokenize(QUESTION)
    generated = [int(token) for token in model.vocabulary.tokenize(" The cat, the dog, and the")]
    tokens = np.concatenate((prompt, np.array(generated, dtype=np.int32)))
    row = backend.decode([Chunk(0, 0, tokens, 1)])[0].copy()
    backend.forget(0)
    expected = reference_sampling.probabilities(row.tolist(), sampling, prompt.tolist(), generated)
    draws = 1500
    counts: Counter[int] = Counter()
    for seed in range(draws):
        sampler = Sampler(
            sampling, seed=seed, choice=0, prompt=prompt, end_token_ids=frozenset(), vocabulary_size=len(row)
        )
        for token in generated:
            sampler.record(token)
        counts[sampler.sample(row, len(generated))] += 1
    assert all(expected[token] > 0 for token in counts)
    assert chi_square_deviation(counts, expected, draws) < 4.5, "that happens by chance once in 300,000 runs"


def chi_square_deviation(counts: Counter[int], expected: Sequence[float], draws: int) -> float:
    """By how many standard deviations chi-square is too large, by Wilson and Hilferty's approximation.

    Tokens expected fewer than five times are one category.
    """
    frequent = [token for token, probability in enumerate(expected) if probability * draws >= 5]
    categories = [(counts[token], expected[token] * draws) for token in frequent]
    rest = (draws - sum(count for count, _ in categories), draws - sum(mean for _, mean in categories))
    if rest[1] >= 5:
        categories.append(rest)
    freedom = len(categories) - 1
    if not freedom:
        return 0.0
    chi_square = math.fsum((count - mean) ** 2 / mean for count, mean in categories)
    spread = 2 / (9 * freedom)
    return (math.pow(chi_square / freedom, 1 / 3) - (1 - spread)) / math.sqrt(spread)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_constrained_answer_is_complete_json_and_ends_by_itself(
    fast_model: Model, fast_backend: RecordingBackend, temperature: float
) -> None:
    compiler, backend = GrammarCompiler(fast_model.vocabulary), fast_backend
    for seed in range(3):
        request = request_of(fast_model, SamplingParams(temperature=temperature), limit=200)
        request.constraint = compiler.compile(GRAMMAR, "response_format")
        answer = generate(fast_model, backend, request, seed)
        assert answer.reasons == ["stop"]
        animals = json.loads(answer.text)["animals"]
        assert 1 <= len(animals) <= 2
        assert all(list(animal) == ["name_of_the_animal", "legs"] for animal in animals)
        assert answer.usage is not None
        assert answer.usage.completion_tokens == len(answer.tokens)
        assert len(backend.rows) < len(answer.tokens), "forced tokens are not sampled"


def test_a_constrained_answer_cut_by_the_limit_ends_with_length(
    model: Model, backend: RecordingBackend, compiler: GrammarCompiler
) -> None:
    for limit in range(1, 12):
        request = request_of(model, SamplingParams(), limit=limit)
        request.constraint = compiler.compile(GRAMMAR, "response_format")
        answer = generate(model, backend, request)
        assert answer.reasons == ["length"]
        assert len(answer.tokens) == limit


def test_with_log_probabilities_every_token_of_a_constrained_answer_is_sampled_and_reported(
    model: Model, backend: RecordingBackend, compiler: GrammarCompiler
) -> None:
    request = EngineRequest(
        (0, 0),
        model.vocabulary.tokenize(QUESTION),
        SamplingParams(temperature=0.0),
        30,
        logprobs=20,
        constraint=compiler.compile('start: "Animals: " /[a-z]{3,9}/ "."', "response_format"),
    )
    answer = generate(model, backend, request)
    assert len(answer.logprobs) == len(answer.tokens) == len(backend.rows)
    for reported, token, row in zip(answer.logprobs, answer.tokens, backend.rows, strict=True):
        assert_logprobs(reported, token, row)


def test_a_request_that_forbids_all_the_grammar_allows_fails_and_others_continue(
    model: Model, backend: RecordingBackend, compiler: GrammarCompiler
) -> None:
    batcher = Batcher(backend, model.vocabulary, max_sequences=4, max_batched_tokens=256, host_cache_tokens=0)
    ends = SamplingParams(min_tokens=8, temperature=0.0)
    unsatisfiable = request_of(model, ends)
    unsatisfiable.constraint = compiler.compile('start: "yes" | "no"', "response_format")
    batcher.add(unsatisfiable, 2, seed=1)
    batcher.add(EngineRequest((0, 1), unsatisfiable.prompt, SamplingParams(temperature=0.0), 5), 1, seed=1)
    outputs = run_until_idle(batcher, 60)
    failed = [output for output in outputs if output.key == (0, 0)]
    assert isinstance(failed[-1].event, EngineFailed)
    assert sum(isinstance(output.event, EngineFailed) for output in outputs) == 1
    assert [output.event for output in outputs if isinstance(output.event, Usage)] == [
        Usage(len(unsatisfiable.prompt), 5, 0)
    ]


def test_a_bad_word_is_not_generated_with_or_without_a_space_before_it(
    model: Model, backend: RecordingBackend, compiler: GrammarCompiler
) -> None:
    plain = generate(model, backend, request_of(model, SamplingParams(temperature=0.0)))
    word = next(word for word in plain.text.split() if word.isalpha())
    tokens = bad_word_tokens([word], model.vocabulary.tokenize_fragment)
    assert word in plain.text
    request = request_of(model, SamplingParams(temperature=0.0, bad_words=(word,)))
    request.bad_words = tokens
    answer = generate(model, backend, request)
    assert word not in answer.text.split()
    assert len(answer.tokens) > 5
    # What a grammar forces is not sampled, but a forbidden word is not let in with it.
    request.constraint = compiler.compile(f'start: "{word}"', "response_format")
    forced = generate(model, backend, request)
    assert (forced.text, len(forced.errors)) == ("", 1)


def test_only_allowed_tokens_are_generated_and_a_stop_token_is_the_reason(
    model: Model, backend: RecordingBackend
) -> None:
    yes, no = (model.vocabulary.tokenize_fragment(text)[0] for text in (" yes", " no"))
    sampling = SamplingParams(allowed_token_ids=(yes, no), stop_token_ids=(no,), seed=1)
    answer = generate(model, backend, request_of(model, sampling, limit=64))
    assert set(answer.tokens) <= {yes, no}
    assert answer.finished == [Finished(0, "stop", no)]
