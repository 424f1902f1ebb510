"""Requests to a model that only recites a text, with the certainty that the temperature allows.

So an answer may be any text.
"""

import functools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from dragoman.core.errors import DragomanError
from dragoman.core.events import Event
from dragoman.core.request import SamplingParams
from dragoman.engines.echo.engine import END
from dragoman.engines.llama.arrays import TokenArray
from dragoman.engines.llama.batching.batcher import Batcher, RequestOutput
from dragoman.engines.llama.batching.sequence import PLAIN_OUTPUT, EngineRequest, TokenizedOutputFormat
from dragoman.engines.llama.batching.speculation import MAX_DRAFT_TOKENS
from dragoman.output.constraint import GrammarCompiler, GrammarConstraint
from dragoman.output.reasoning_parser import ReasoningSpec
from dragoman.prompt.output_parser import OutputParserSpec, build_parser
from dragoman.prompt.reasoning import DEFAULT_MARKERS
from tests.support.batching import run_until_idle
from tests.support.byte_vocabulary import ByteGrammarVocabulary
from tests.support.simulated_backend import SimulatedBackend

OPENING, CLOSING = DEFAULT_MARKERS.opening, DEFAULT_MARKERS.closing

PROMPT = np.array([*b"Say it: "], dtype=np.int32)
MAX_STEPS = 1000
LIMIT = 120
CALL = '<tool_call>\n{"name": "now", "arguments": {"zone": "STOP"}}\n</tool_call>'
GRAMMAR = 'start: "Hello, " ("world" | "you") "! Bye, " /[a-z]{1,5}/ "."'

COMPILER = GrammarCompiler(ByteGrammarVocabulary())


class Scenario(NamedTuple):
    """The part of a request that does not vary between attempts."""

    text: str
    sampling: SamplingParams = SamplingParams(temperature=0.0)
    output_format: TokenizedOutputFormat = PLAIN_OUTPUT
    constraint: GrammarConstraint | None = None
    n: int = 1
    echo: str = ""
    logprobs: int | None = None
    prompt: TokenArray = PROMPT


def run_scenario(
    scenario: Scenario, resumed: tuple[tuple[int, ...], ...] = (), *, max_draft_tokens: int = MAX_DRAFT_TOKENS
) -> list[Event]:
    """Return the events. Raises BadRequest."""
    return run_recitation(scenario, resumed, max_draft_tokens=max_draft_tokens).events


class Recitation(NamedTuple):
    """What a batcher made of a scenario."""

    events: list[Event]
    steps: int
    drafted_tokens: int
    accepted_draft_tokens: int


def run_recitation(
    scenario: Scenario, resumed: tuple[tuple[int, ...], ...] = (), *, max_draft_tokens: int = MAX_DRAFT_TOKENS
) -> Recitation:
    """Run the scenario alone, on a clock that stands still. Raises BadRequest."""
    text = scenario.text.encode()

    def recite(context: Iterable[int]) -> int:
        position = len(list(context)) - len(scenario.prompt)
        return text[position] if 0 <= position < len(text) else END

    backend = SimulatedBackend(1024, model=recite, vocabulary_size=ByteGrammarVocabulary.size)
    batcher = Batcher(
        backend,
        ByteGrammarVocabulary(),
        max_sequences=4,
        max_batched_tokens=32,
        host_cache_tokens=0,
        max_draft_tokens=max_draft_tokens,
        clock=lambda: 0.0,
    )
    request = EngineRequest(
        (0, 0),
        scenario.prompt,
        scenario.sampling,
        LIMIT,
        echo=scenario.echo,
        constraint=scenario.constraint,
        logprobs=scenario.logprobs,
        output_format=scenario.output_format,
        resume_token_ids=resumed,
    )
    outputs: list[RequestOutput] = []
    try:
        outputs += batcher.add(request, scenario.n, seed=7)
    finally:
        outputs += run_until_idle(batcher, MAX_STEPS)
    events = [output.event for output in outputs if not isinstance(output.event, DragomanError)]
    assert len(events) == len(outputs)
    return Recitation(events, len(backend.batches), batcher.drafted_tokens, batcher.accepted_draft_tokens)


def output_formats(tools: bool, thinking: ReasoningSpec | None) -> TokenizedOutputFormat:
    reading = OutputParserSpec("hermes" if tools else None, thinking)
    return TokenizedOutputFormat(
        functools.partial(build_parser, reading),
        reasoning_budget=thinking.budget_tokens if thinking else None,
        reasoning_closing_token_ids=tuple(CLOSING.encode()) if thinking else (),
        after_reasoning_token_ids=tuple(b"\n\n") if thinking else (),
    )


pieces = ["a", "é", "😀", "\n", " ", "<", OPENING, CLOSING, CALL, CALL[:30], "STOP", "ST", "Hello, you! Bye, ab."]
texts = st.lists(st.sampled_from(pieces), max_size=8).map("".join)
thoughts = (
    st.builds(ReasoningSpec, st.just(OPENING), st.just(CLOSING), st.booleans(), st.sampled_from([None, 0, 3, 20]))
    | st.none()
)
samplings = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.125, 0.15]),  # the likeliest token has 92 % and 75 %
    max_tokens=st.none(),
    min_tokens=st.sampled_from([0, 0, 5]),
    stop=st.sampled_from([(), ("STOP",), ("é", "a\n")]),
    stop_token_ids=st.sampled_from([(), (ord("<"),)]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.5]),
    ignore_eos=st.booleans(),
    include_stop_text=st.booleans(),
)


def scenarios(
    texts: st.SearchStrategy[str] = texts,
    prompts: st.SearchStrategy[TokenArray] = st.just(PROMPT),  # noqa: B008
    logprobs: st.SearchStrategy[int | None] = st.none(),  # noqa: B008
) -> st.SearchStrategy[Scenario]:
    """Scenarios with every kind of control."""
    return st.builds(
        Scenario,
        text=texts,
        sampling=samplings,
        output_format=st.builds(output_formats, st.booleans(), thoughts),
        constraint=st.sampled_from([None, None, COMPILER.compile(GRAMMAR, "response_format")]),
        n=st.sampled_from([1, 2]),
        echo=st.sampled_from(["", "Say it: "]),
        logprobs=logprobs,
        prompt=prompts,
    )
