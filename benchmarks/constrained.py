"""The cost of a JSON schema, and its gain where it forces tokens, beside the same engine without one.

    .venv/bin/python -m benchmarks.constrained

What is measured and how to read it: benchmarks/README.md.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import llguidance
import msgspec

from benchmarks.harness.figures import TargetRatio, table, write_json
from benchmarks.harness.stopwatch import Stopwatch
from dragoman.core.events import Delta, Usage
from dragoman.core.request import SamplingParams
from dragoman.engines.llama.batching.batcher import Batcher
from dragoman.engines.llama.batching.sequence import EngineRequest
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.llama_backend import LlamaBackend
from dragoman.engines.llama.native.loading import load_model
from dragoman.engines.llama.native.model import Model
from dragoman.engines.llama.weights.rewriting import faster_file
from dragoman.engines.llama.weights.sources import bundled
from dragoman.engines.llama.wire.options import max_batch_tokens
from dragoman.output.constraint import GrammarCompiler, GrammarConstraint
from dragoman.server.settings import EngineSettings

RATIO_BAR = TargetRatio(1.5)

# The bounds of every loop.
MAX_TOKENS = 400
MAX_ROUNDS = 20
MAX_SEQUENCES = 16
MAX_STEPS = 20_000

_KEYS = (
    "customer_identification_number",
    "preferred_delivery_time_window",
    "is_registered_for_the_newsletter",
    "number_of_outstanding_invoices",
    "date_of_the_last_completed_order",
    "average_satisfaction_rating_percent",
)

SCHEMA = {
    "type": "object",
    "properties": {key: {"type": "integer", "minimum": 0, "maximum": 9999} for key in _KEYS},
    "required": list(_KEYS),
    "additionalProperties": False,
}

_PROMPT = (
    "<|im_start|>system\nYou fill in records as JSON.<|im_end|>\n"
    "<|im_start|>user\nMake up the record of customer {number}.<|im_end|>\n<|im_start|>assistant\n"
)

_ENGINE = EngineSettings()
"""The default settings."""


class Options(NamedTuple):
    """The command line."""

    rounds: int
    threads: int
    json: Path | None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Medians over the rounds with one number of sequences."""

    sequences: int
    constrained_tokens_per_second: float
    constrained_every_token_sampled: float
    """Tokens/s with the same grammar if every token is sampled."""
    unconstrained_tokens_per_second: float
    other_cores: float

    @property
    def ratio(self) -> float:
        """Constrained / unconstrained."""
        return self.constrained_tokens_per_second / self.unconstrained_tokens_per_second


def measure(backend: LlamaBackend, model: Model, options: Options, sequences: int) -> Result:
    """Measure rounds of the three variants, in turns."""
    grammar = llguidance.LLMatcher.grammar_from_json_schema(
        SCHEMA, overrides={"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    )
    constraint = GrammarCompiler(model.vocabulary).compile(grammar, "response_format")
    rates: list[tuple[float, float, float]] = []
    with Stopwatch({}) as watch:
        for _ in range(options.rounds):
            constrained, tokens = _rate(backend, model, sequences, constraint, MAX_TOKENS)
            sampled, _ = _rate(backend, model, sequences, constraint.copy(fast_forward=False), MAX_TOKENS)
            unconstrained, _ = _rate(backend, model, sequences, None, tokens)
            rates.append((constrained, sampled, unconstrained))
    constrained, sampled, unconstrained = (statistics.median(column) for column in zip(*rates, strict=True))
    return Result(
        sequences=sequences,
        constrained_tokens_per_second=constrained,
        constrained_every_token_sampled=sampled,
        unconstrained_tokens_per_second=unconstrained,
        other_cores=watch.other_cores,
    )


def _rate(
    backend: LlamaBackend, model: Model, sequences: int, constraint: GrammarConstraint | None, max_tokens: int
) -> tuple[float, int]:
    """Return the tokens/s of all sequences after the first token of each, and the tokens of one."""
    batcher = Batcher(
        backend,
        model.vocabulary,
        max_sequences=MAX_SEQUENCES,
        max_batched_tokens=_ENGINE.max_batched_tokens,
        host_cache_tokens=0,
    )
    sampling = SamplingParams(temperature=0.0, ignore_eos=constraint is None)
    for number in range(sequences):
        prompt = model.vocabulary.tokenize(_PROMPT.format(number=number))
        batcher.add(EngineRequest((0, number), prompt, sampling, max_tokens, constraint=constraint), 1, number)
    started: float | None = None
    texts: dict[int, str] = {}
    tokens = 0
    for _ in range(MAX_STEPS):
        if batcher.is_idle:
            break
        for key, event in batcher.step():
            match event:
                case Delta():
                    texts[key[1]] = texts.get(key[1], "") + event.text
                case Usage(_, completion_tokens, _, _):
                    tokens += completion_tokens
        if started is None and len(texts) == sequences:
            started = time.perf_counter()
    assert started is not None, "every sequence has output"
    seconds = time.perf_counter() - started
    batcher.cache.clear()
    if constraint is not None:
        for text in texts.values():
            if list(json.loads(text)) != list(_KEYS):
                raise RuntimeError(f"the schema was not followed: {text}")
    return tokens / seconds, tokens // sequences


def _report(results: list[Result]) -> str:
    rows = [("", "schema", "schema, all sampled", "free", "schema / free", f"bar {RATIO_BAR.minimum:g}", "others")]
    rows += [
        (
            f"{result.sequences} together",
            f"{result.constrained_tokens_per_second:.1f} tokens/s",
            f"{result.constrained_every_token_sampled:.1f}",
            f"{result.unconstrained_tokens_per_second:.1f}",
            f"{result.ratio:.2f}",
            RATIO_BAR.verdict(result.ratio).partition(": ")[2],
            f"{result.other_cores:.2f}",
        )
        for result in results
    ]
    return table(rows)


def _parse() -> Options:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.constrained", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="of every variant (default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="of the engine (default: 2)")
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    if not 1 <= arguments.rounds <= MAX_ROUNDS or arguments.threads < 1:
        parser.error(f"--rounds goes from 1 to {MAX_ROUNDS}, --threads from 1")
    return Options(arguments.rounds, arguments.threads, arguments.json)


def main() -> None:
    """Measure and print."""
    options = _parse()
    cells, step = _ENGINE.kv_cache_tokens, max_batch_tokens(MAX_SEQUENCES, _ENGINE.max_batched_tokens)
    context = ContextOptions(cells, step, options.threads)
    model = load_model(faster_file(bundled().path, progress=False, notify=print), None, context)
    backend = LlamaBackend(model, context)
    results = [measure(backend, model, options, sequences) for sequences in (1, 4, MAX_SEQUENCES)]
    backend.close()
    print(_report(results))
    write_json(options.json, results)


if __name__ == "__main__":
    main()
