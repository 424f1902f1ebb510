"""Answers of the real model, cut and resumed."""

import itertools
import json
from collections.abc import Iterator, Sequence

import msgspec
import pytest

from dragoman.core.events import Delta, Event, Finished, Usage
from dragoman.core.request import GenerationRequest, JsonSchemaFormat, SamplingParams, TextPrompt
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.model import Model
from dragoman.engines.llama.wire.messages import GenerateCommand
from tests.support.batching import events_of_choice, tokens_of_choice
from tests.support.in_process_engine import InProcessEngine
from tests.support.models import THREADS

CUTS = (1, 13)
"""Resume tokens of the first choice. The second choice has twice as many."""

KEYS = ["name_of_the_animal", "legs"]
SCHEMA = {
    "type": "object",
    "properties": {"name_of_the_animal": {"type": "string", "maxLength": 12}, "legs": {"enum": [2, 4, 6, 8]}},
    "required": KEYS,
    "additionalProperties": False,
}


def request(
    question: str,
    sampling: SamplingParams,
    n: int = 1,
    response_format: JsonSchemaFormat | None = None,
) -> GenerationRequest:
    prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    return GenerationRequest(
        model="any", prompt=TextPrompt(prompt), sampling=sampling, n=n, response_format=response_format
    )


REQUESTS = [
    request("Tell me about the sea.", SamplingParams(temperature=0.0, max_tokens=28)),
    request("Tell me about rain.", SamplingParams(temperature=1.0, seed=11, max_tokens=28, repetition_penalty=1.2)),
    request("Tell me about bees.", SamplingParams(temperature=1.0, seed=5, max_tokens=28, ignore_eos=True), n=2),
    request("Name an animal.", SamplingParams(temperature=1.0, seed=3), response_format=JsonSchemaFormat(SCHEMA)),
    request("Count to ten.", SamplingParams(temperature=0.0, max_tokens=28, stop=("5", "the"))),
]


def generate(engine: InProcessEngine, requests: Sequence[GenerationRequest]) -> list[list[Event]]:
    """The events of each request, all answered together."""
    return engine.generate([command(number, one) for number, one in enumerate(requests)])


def command(number: int, one: GenerationRequest) -> GenerateCommand:
    assert isinstance(one.prompt, TextPrompt)
    assert one.sampling.seed is not None or one.sampling.temperature == 0.0
    return GenerateCommand(
        number=number,
        prompt=one.prompt,
        sampling=one.sampling,
        n=one.n,
        echo=one.echo,
        priority=one.priority,
        response_format=one.response_format,
        resume_token_ids=one.resume_token_ids,
    )


def new_engine(model: Model, *, reproducible: bool) -> InProcessEngine:
    options = ContextOptions(8192, 512, threads=THREADS, reproducible=reproducible)
    return InProcessEngine(model, options, max_sequences=8, host_cache_tokens=1024)


@pytest.fixture(scope="module")
def model(shallow_model: Model) -> Model:
    """Two of its layers: resumed or not, an answer goes through the same ones."""
    return shallow_model


@pytest.fixture(scope="module")
def reproducible(model: Model) -> Iterator[InProcessEngine]:
    engine = new_engine(model, reproducible=True)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def default(model: Model) -> Iterator[InProcessEngine]:
    engine = new_engine(model, reproducible=False)
    yield engine
    engine.close()


def text_of(events: Sequence[Event], index: int) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta) and event.index == index)


def interrupted(request_cut: GenerationRequest, unbroken: Sequence[Event], length: int) -> GenerationRequest:
    resume_token_ids = tuple(
        tokens_of_choice(unbroken, index)[: length * (index + 1)] for index in range(request_cut.n)
    )
    return msgspec.structs.replace(request_cut, resume_token_ids=resume_token_ids)


def test_resumed_reproducible_answers_equal_an_uninterrupted_run(reproducible: InProcessEngine) -> None:
    answers = generate(reproducible, REQUESTS)
    pairs = [(request_cut, unbroken) for request_cut, unbroken in zip(REQUESTS, answers, strict=True) for _ in CUTS]
    lengths = itertools.cycle(CUTS)
    again = generate(reproducible, [interrupted(*pair, next(lengths)) for pair in pairs])
    for (request_cut, unbroken), continued in zip(pairs, again, strict=True):
        for index in range(request_cut.n):
            assert events_of_choice(continued, index) == events_of_choice(unbroken, index)
        first, second = unbroken[-1], continued[-1]
        assert isinstance(first, Usage)
        assert isinstance(second, Usage)
        assert (first.prompt_tokens, first.completion_tokens) == (second.prompt_tokens, second.completion_tokens)


def test_resumed_answers_keep_their_beginning_and_are_valid(default: InProcessEngine) -> None:
    answers = generate(default, REQUESTS)
    pairs = [(request_cut, unbroken) for request_cut, unbroken in zip(REQUESTS, answers, strict=True) for _ in CUTS]
    lengths = itertools.cycle(CUTS)
    resume_token_ids = [interrupted(*pair, next(lengths)) for pair in pairs]
    for request_cut, continued in zip(resume_token_ids, generate(default, resume_token_ids), strict=True):
        usage = continued[-1]
        assert isinstance(usage, Usage)
        assert usage.completion_tokens == sum(len(tokens_of_choice(continued, index)) for index in range(request_cut.n))
        assert sum(isinstance(event, Finished) for event in continued) == request_cut.n
        for index, tokens in enumerate(request_cut.resume_token_ids):
            assert tokens_of_choice(continued, index)[: len(tokens)] == tokens
            text = text_of(continued, index)
            assert not any(stop in text for stop in request_cut.sampling.stop)
            if request_cut.response_format is not None:
                assert list(json.loads(text)) == KEYS
