"""Answers of the architectures that people run, in batches, against llama.cpp computing one sequence alone.

The models have random weights and a few layers. They are loaded in the tests' own process, since the same computations
were seen to end without a failed assertion.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from dragoman.core.errors import DragomanError
from dragoman.core.request import SamplingParams
from dragoman.engines.llama.arrays import Logits
from dragoman.engines.llama.batching.batcher import Batcher
from dragoman.engines.llama.batching.sequence import EngineRequest
from dragoman.engines.llama.native.architectures import TESTED_ARCHITECTURES
from dragoman.engines.llama.native.backend import SPARE_SEQUENCE_IDS, Chunk
from dragoman.engines.llama.native.context import LlamaContext
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.libraries.llama_cpp import LlamaCpp, packaged_llama_cpp
from dragoman.engines.llama.native.llama_backend import SingleContextBackend
from dragoman.engines.llama.native.loading import open_backend
from dragoman.engines.llama.native.model import Model, ModelError
from tests.support.architecture_files import TinyArchitecture, write_tiny_architecture
from tests.support.batching import tokens_by_request, tokens_of_choice
from tests.support.models import THREADS
from tests.support.tiny_architectures import (
    DENSE,
    EXPERTS,
    HYBRID,
    RECURRENT,
    REFUSED,
    SERVED,
    SLIDING_WINDOWS,
)

ROOT = Path(__file__).parents[3]

ANSWER_TOKENS = 6
GREEDY = SamplingParams(temperature=0.0, max_tokens=ANSWER_TOKENS, ignore_eos=True)

SAMPLED = SamplingParams(temperature=1.0, max_tokens=ANSWER_TOKENS, ignore_eos=True)

CELLS = 112
"""Too few for all sequences, so that some are preempted."""

MAX_ROUNDING = 0.05
"""Logits that differ by less may change places where ggml adds the same numbers up in another order."""

_TOKENS = np.random.default_rng(1).integers(3, 256, 200).tolist()
PROMPTS = [_TOKENS[:30], [*_TOKENS[:25], *_TOKENS[100:125]], [*_TOKENS[:20], *_TOKENS[150:170]]]
"""Longer than the sliding windows, with common beginnings."""


class PlainAnswer(NamedTuple):
    """What llama.cpp computes when nothing else is in its cache."""

    tokens: list[int]
    logits: list[Logits]
    """Those that each token was the highest of."""


pytestmark = pytest.mark.usefixtures("cache")  # A model with a recurrent state is checked once for each file.


@pytest.fixture
def tiny_model(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Model]:
    name: str = request.param
    model = load(tmp_path, name, SERVED[name])
    yield model
    model.close()


@pytest.mark.parametrize("tiny_model", SERVED, indirect=True)
def test_each_architecture_is_computed_in_batches_as_alone(tiny_model: Model) -> None:
    with serving(tiny_model) as batcher:
        found = answers(batcher, PROMPTS)
    for plain, tokens in zip(plain_answers(tiny_model, PROMPTS), found, strict=True):
        assert_same_but_for_rounding(plain, tokens)


@pytest.mark.parametrize("tiny_model", SLIDING_WINDOWS | RECURRENT | HYBRID, indirect=True)
def test_what_a_sequence_forgets_changes_no_answer(tiny_model: Model) -> None:
    first = [plain.tokens for plain in plain_answers(tiny_model, PROMPTS, reproducible=True)]
    next_turns = [[*prompt, *tokens, 7, 8, 9] for prompt, tokens in zip(PROMPTS, first, strict=True)]
    next_tokens = [plain.tokens for plain in plain_answers(tiny_model, next_turns, reproducible=True)]
    with serving(tiny_model, reproducible=True) as batcher:
        assert answers(batcher, PROMPTS) == first
        assert answers(batcher, next_turns) == next_tokens
        assert answers(batcher, PROMPTS, resumed=[tokens[:4] for tokens in first]) == first


@pytest.mark.parametrize("tiny_model", RECURRENT | HYBRID, indirect=True)
def test_choices_go_on_from_a_copy_of_the_prompts_state(tiny_model: Model) -> None:
    prompt = [*PROMPTS[0], *PROMPTS[1][25:]]
    [plain] = plain_answers(tiny_model, [prompt], reproducible=True)
    with serving(tiny_model, reproducible=True) as batcher:
        greedy = choices(batcher, prompt, GREEDY)
        sampled = choices(batcher, prompt, SAMPLED)
    assert greedy == [plain.tokens] * 3
    with serving(tiny_model, reproducible=True) as batcher:
        apart = [choices(batcher, prompt, SAMPLED, only=index)[0] for index in range(3)]
    assert sampled == apart


@pytest.mark.parametrize("tiny_model", SLIDING_WINDOWS, indirect=True)
def test_rejected_drafts_leave_no_trace_behind_a_sliding_window(tiny_model: Model) -> None:
    tokens, wrong = np.array(PROMPTS[1], dtype=np.int32), np.array(_TOKENS[60:65], dtype=np.int32)
    backend = open_backend(tiny_model, ContextOptions(512, 32, THREADS, reproducible=True, sequence_ids=8))
    assert isinstance(backend, SingleContextBackend), "of two contexts, or of one"
    for sequence_id in (0, 1):
        backend.decode([Chunk(sequence_id, 0, tokens[:30], 1)])
    for position in range(30, len(tokens)):
        expected = backend.decode([Chunk(0, position, tokens[position : position + 1], 1)])[0].copy()
        drafted = np.concatenate((tokens[position : position + 1], wrong))
        found = backend.decode([Chunk(1, position, drafted, len(drafted))])[0]
        assert np.abs(found - expected).max() < MAX_ROUNDING
        backend.truncate(1, position + 1)
    backend.close()


KINDS = {
    "dense": DENSE,
    "mixture of experts": EXPERTS,
    "sliding windows": SLIDING_WINDOWS,
    "recurrent": RECURRENT,
    "hybrid": HYBRID,
    "refused": REFUSED,
}

REASONS = {
    "dream": "has a diffusion decoder",
    "llada": "has a diffusion decoder",
    "t5": "has an encoder",
    "cogvlm": "computes several sequences of it wrongly",
    "plamo2": "computes several sequences of it wrongly",
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_architectures_are_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match=REASONS[name]):
        open_backend(load(tmp_path, name, REFUSED[name]), ContextOptions(256, 32, THREADS))


def test_latent_attention_is_refused_where_it_must_be_reproducible(tmp_path: Path) -> None:
    model = load(tmp_path, "deepseek2", SERVED["deepseek2"])
    with pytest.raises(ModelError, match="serve it without `reproducible`"):
        open_backend(model, ContextOptions(256, 32, THREADS, reproducible=True))


def test_the_table_of_the_documentation_has_these_architectures() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", (ROOT / "docs/models.md").read_text(), re.MULTILINE)
    documented = {kind: set(re.findall("`([^`]+)`", names)) for kind, names in rows}
    for kind, architectures in KINDS.items():
        assert documented[kind] == {model.name or name for name, model in architectures.items()}


def test_architectures_that_are_served_without_a_check_are_tested() -> None:
    checked = {model.name or name for name, model in (RECURRENT | HYBRID).items()}
    assert {model.name or name for name, model in SERVED.items()} - checked == TESTED_ARCHITECTURES


def load(folder: Path, name: str, architecture: TinyArchitecture) -> Model:
    return Model(LlamaCpp(packaged_llama_cpp()), write_tiny_architecture(folder / "tiny.gguf", name, architecture))


def assert_same_but_for_rounding(plain: PlainAnswer, tokens: list[int]) -> None:
    for expected, found, logits in zip(plain.tokens, tokens, plain.logits, strict=True):
        if expected != found:
            assert logits[expected] - logits[found] < MAX_ROUNDING
            return


def plain_answers(model: Model, prompts: list[list[int]], *, reproducible: bool = False) -> list[PlainAnswer]:
    context = LlamaContext(model, ContextOptions(256, 128, THREADS, reproducible, sequence_ids=1))
    answers = [plain_answer(context, prompt) for prompt in prompts]
    context.close()
    return answers


def plain_answer(context: LlamaContext, prompt: list[int]) -> PlainAnswer:
    answer = PlainAnswer([], [])
    pending, position = np.array(prompt, dtype=np.int32), 0
    while len(answer.tokens) < ANSWER_TOKENS:
        answer.logits.append(context.decode([Chunk(0, position, pending, 1)])[0].copy())
        position += len(pending)
        answer.tokens.append(int(answer.logits[-1].argmax()))
        pending = np.array(answer.tokens[-1:], dtype=np.int32)
    context.forget(0)
    return answer


@contextmanager
def serving(model: Model, *, reproducible: bool = False) -> Iterator[Batcher]:
    options = ContextOptions(CELLS, 32, THREADS, reproducible, sequence_ids=len(PROMPTS) + SPARE_SEQUENCE_IDS)
    backend = open_backend(model, options)
    assert isinstance(backend, SingleContextBackend), "of two contexts, or of one"
    yield Batcher(backend, model.vocabulary, max_sequences=len(PROMPTS), max_batched_tokens=32, host_cache_tokens=512)
    backend.close()


def choices(batcher: Batcher, prompt: list[int], sampling: SamplingParams, only: int | None = None) -> list[list[int]]:
    """Answer a prompt with three choices, or with one that samples as one of them."""
    request = EngineRequest((0, 0), np.array(prompt, dtype=np.int32), sampling, ANSWER_TOKENS)
    n = 3 if only is None else only + 1
    outputs = batcher.add(request, n, seed=1)
    if only is not None:
        for sequence in [each for each in batcher.scheduler.waiting if each.index != only]:
            batcher.scheduler.remove(sequence)
    while not batcher.is_idle and (batcher.scheduler.running or batcher.scheduler.waiting):
        outputs += batcher.step()
    events = [event for _, event in outputs if not isinstance(event, DragomanError)]
    return [list(tokens_of_choice(events, index)) for index in (range(3) if only is None else [only])]


def answers(
    batcher: Batcher, prompts: list[list[int]], resumed: Sequence[Sequence[int]] = ((), (), ())
) -> list[list[int]]:
    """Answer all prompts together."""
    outputs = []
    for number, (prompt, known) in enumerate(zip(prompts, resumed, strict=True)):
        tokens = np.array(prompt, dtype=np.int32)
        request = EngineRequest((0, number), tokens, GREEDY, ANSWER_TOKENS, resume_token_ids=(tuple(known),))
        outputs += batcher.add(request, 1, seed=1)
    while not batcher.is_idle:
        outputs += batcher.step()
    while batcher.use_idle_time():
        pass
    found = tokens_by_request(outputs)
    return [found[0, number] for number in range(len(prompts))]
