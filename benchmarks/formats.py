"""The speed of llama.cpp with the same weights in different formats on this machine.

    .venv/bin/python -m benchmarks.formats

What is measured and how to read it: benchmarks/README.md.
"""

import argparse
import random
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from benchmarks.harness.figures import medians, table, write_json
from benchmarks.harness.stopwatch import Stopwatch
from benchmarks.harness.workloads import text
from benchmarks.rewrite_weights import FORMATS, rewritten
from dragoman.engines.llama.arrays import TokenArray
from dragoman.engines.llama.native.backend import Chunk
from dragoman.engines.llama.native.context import LlamaContext
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.libraries.llama_cpp import LlamaCpp, packaged_llama_cpp
from dragoman.engines.llama.native.model import Model
from dragoman.engines.llama.weights.sources import bundled

PREFILL_TOKENS = 512
DECODE_STEPS = 16
PROMPT_TOKENS = 32
CONTEXT_CELLS = 1024
BASELINE = "q8_0"


class Rates(msgspec.Struct, frozen=True):
    """Tokens/s of one format."""

    prefill: float
    decode_1: float
    """One sequence."""
    decode_4: float
    decode_16: float


class Options(NamedTuple):
    """The command line."""

    model: Path
    rounds: int
    threads: int
    json: Path | None


def measure(model: Model, tokens: TokenArray, threads: int) -> Rates:
    """Measure one round of one format."""
    context = LlamaContext(model, ContextOptions(CONTEXT_CELLS, PREFILL_TOKENS, threads))
    try:
        context.decode([Chunk(0, 0, tokens[:PROMPT_TOKENS], True)])  # The first decode is slower and not measured.
        context.forget(0)
        started = time.perf_counter()
        context.decode([Chunk(0, 0, tokens, True)])
        prefill = PREFILL_TOKENS / (time.perf_counter() - started)
        context.forget(0)
        return Rates(prefill, *(_decode_rate(context, tokens, sequences) for sequences in (1, 4, 16)))
    finally:
        context.close()


def _decode_rate(context: LlamaContext, tokens: TokenArray, sequences: int) -> float:
    for sequence in range(sequences):
        context.decode([Chunk(sequence, 0, tokens[:PROMPT_TOKENS], False)])
    started = time.perf_counter()
    for position in range(PROMPT_TOKENS, PROMPT_TOKENS + DECODE_STEPS):
        context.decode([Chunk(sequence, position, tokens[:1], True) for sequence in range(sequences)])
    seconds = time.perf_counter() - started
    for sequence in range(sequences):
        context.forget(sequence)
    return sequences * DECODE_STEPS / seconds


def _report(figures: dict[str, Rates]) -> str:
    names = Rates.__struct_fields__
    rows = [("", *(f"{name.replace('_', ' x')} | / {BASELINE}" for name in names))]
    for kind, rates in figures.items():
        pairs = [(getattr(rates, name), getattr(figures[BASELINE], name)) for name in names]
        rows.append((kind, *(f"{rate:.0f} | {rate / baseline:.2f}" for rate, baseline in pairs)))
    return table(rows)


def _parse() -> Options:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.formats", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="of each format (default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="of the engine (default: 2)")
    parser.add_argument("--model", type=Path, help="a .gguf file (default: the bundled model)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.threads) < 1:
        parser.error("--rounds and --threads must be at least 1")
    return Options(arguments.model or bundled().path, arguments.rounds, arguments.threads, arguments.json)


def main() -> None:
    """Measure and print."""
    options = _parse()
    library = LlamaCpp(packaged_llama_cpp())
    models = {kind: Model(library, rewritten(options.model, kind)) for kind in FORMATS}
    vocabulary = models[BASELINE].vocabulary
    tokens = np.resize(vocabulary.tokenize(text(random.Random("formats"), PREFILL_TOKENS)), PREFILL_TOKENS)
    rounds: dict[str, list[Rates]] = {kind: [] for kind in models}
    with Stopwatch({}) as watch:
        for _ in range(options.rounds):
            for kind, model in models.items():
                rounds[kind].append(measure(model, tokens, options.threads))
    for model in models.values():
        model.close()
    figures = {kind: medians(done) for kind, done in rounds.items()}
    print(f"{options.model.name}: tokens/s, medians of {options.rounds} rounds, {options.threads} threads, ", end="")
    print(f"other processes used {watch.other_cores:.2f} cores\n")
    print(_report(figures))
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
