"""The formats in which ik_llama.cpp computes the same as llama.cpp, and how much faster.

    .venv/bin/python -m benchmarks.libraries

What is measured and how to read it: benchmarks/README.md.
"""

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from benchmarks.harness.figures import table, write_json
from benchmarks.random_llama import SHAPE, random_llama
from dragoman.engines.llama.native.backend import Chunk
from dragoman.engines.llama.native.context import LlamaContext
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.libraries.builds import IK_LLAMA_CPP, LLAMA_CPP
from dragoman.engines.llama.native.libraries.choice import load_library
from dragoman.engines.llama.native.library_check import divergence_from_llama_cpp
from dragoman.engines.llama.native.model import Model

KINDS = [
    "Q8_0",
    "Q6_K",
    "Q5_K_M",
    "Q5_0",
    "Q4_K_M",
    "Q4_0",
    "IQ4_NL",
    "IQ4_XS",
    "Q3_K_M",
    "Q2_K",
    "Q4_1",
    "Q5_1",
    "F16",
    "F32",
]
"""Formats, by the names of llama-quantize."""

PROMPT_TOKENS = 400
CELLS = 1024
REPETITIONS = 10


class Ratios(msgspec.Struct, frozen=True, kw_only=True):
    """llama.cpp's time / ik_llama.cpp's, and the divergence of their predictions."""

    kind: str
    divergence: float
    """Kullback-Leibler divergence of their predictions, in nats."""
    prompt: float
    steps_of_16: float
    steps_of_1: float


class Options(NamedTuple):
    """The command line."""

    threads: int
    json: Path | None


def compare(kind: str, threads: int) -> Ratios:
    """Measure both libraries in turns on the random llama in one format."""
    path = random_llama(kind)
    models = {build: Model(load_library(build), path) for build in (LLAMA_CPP, IK_LLAMA_CPP)}
    shape = ContextOptions(CELLS, CELLS // 2, threads)
    contexts = {build: LlamaContext(model, shape) for build, model in models.items()}
    ratios = Ratios(
        kind=kind,
        divergence=divergence_from_llama_cpp(models[IK_LLAMA_CPP], threads),
        prompt=_ratio(contexts, _prompt()),
        steps_of_16=_ratio(contexts, _step(16)),
        steps_of_1=_ratio(contexts, _step(1)),
    )
    for build, model in models.items():
        contexts[build].close()
        model.close()
    return ratios


def _prompt() -> list[Chunk]:
    return [Chunk(0, 0, np.arange(PROMPT_TOKENS, dtype=np.int32) % SHAPE.vocabulary, 1)]


def _step(sequences: int) -> list[Chunk]:
    return [Chunk(number, 0, np.array([number], dtype=np.int32), 1) for number in range(sequences)]


def _ratio(contexts: dict[str, LlamaContext], batch: list[Chunk]) -> float:
    times: dict[str, list[float]] = {build: [] for build in contexts}
    for _ in range(REPETITIONS):
        for build, context in contexts.items():
            started = time.perf_counter()
            context.decode(batch)
            times[build].append(time.perf_counter() - started)
            for chunk in batch:
                context.forget(chunk.sequence_id)
    return statistics.median(times[LLAMA_CPP]) / statistics.median(times[IK_LLAMA_CPP])


def _report(results: list[Ratios]) -> str:
    rows = [("", "KL divergence", f"prompt of {PROMPT_TOKENS}", "16 sequences", "1 sequence")]
    rows += [
        (
            result.kind,
            f"{result.divergence:.4f}",
            f"{result.prompt:.2f}",
            f"{result.steps_of_16:.2f}",
            f"{result.steps_of_1:.2f}",
        )
        for result in results
    ]
    return table(rows)


def _parse() -> Options:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.libraries", description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2, help="of either library (default: 2)")
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    if arguments.threads < 1:
        parser.error("--threads must be at least 1")
    return Options(arguments.threads, arguments.json)


def main() -> None:
    """Measure and print."""
    options = _parse()
    # Two libraries have two sets of threads: those of the idle one must not spin beside the others.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    results = [compare(kind, options.threads) for kind in KINDS]
    print("a random llama, llama.cpp's time / ik_llama.cpp's\n")
    print(_report(results))
    write_json(options.json, results)


if __name__ == "__main__":
    main()
