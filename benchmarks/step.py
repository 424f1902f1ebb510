"""The part of an engine step that is not llama.cpp: scheduling, filling the batch, sampling, publishing.

    .venv/bin/python -m benchmarks.step

What is measured and how to read it: benchmarks/README.md.
"""

import argparse
import random
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.harness.figures import milliseconds, table, write_json
from benchmarks.harness.stopwatch import Stopwatch
from benchmarks.harness.workloads import text
from dragoman.core.events import Finished
from dragoman.core.request import SamplingParams
from dragoman.engines.llama.batching.batcher import Batcher
from dragoman.engines.llama.batching.sequence import EngineRequest
from dragoman.engines.llama.batching.speculation import MAX_DRAFT_TOKENS
from dragoman.engines.llama.native.libraries.binding import ContextOptions, Library
from dragoman.engines.llama.native.llama_backend import LlamaBackend
from dragoman.engines.llama.native.loading import load_model
from dragoman.engines.llama.native.model import Model
from dragoman.engines.llama.weights.rewriting import faster_file
from dragoman.engines.llama.weights.sources import bundled
from dragoman.engines.llama.wire.options import max_batch_tokens
from dragoman.server.settings import EngineSettings

PROMPT_WORDS = 40
MAX_OVERHEAD = 0.08

# The longest prompts and answers of 32 sequences fit into the cells.
MAX_SEQUENCES = 32
MAX_STEPS = 400

_ENGINE = EngineSettings()
"""The default settings."""

_SAMPLINGS = {
    "temperature 0": SamplingParams(temperature=0.0, ignore_eos=True),
    "temperature 1, top_p 0.9": SamplingParams(temperature=1.0, top_p=0.9, ignore_eos=True),
}


class DecodeTimer:
    """Sums the time spent in a library's llama_decode."""

    def __init__(self, library: Library) -> None:
        self.decode_seconds = 0.0
        decode = library.llama_decode

        def timed(*arguments: object) -> int:
            started = time.perf_counter()
            status: int = decode(*arguments)
            self.decode_seconds += time.perf_counter() - started
            return status

        vars(library)["llama_decode"] = timed


class Step(NamedTuple):
    """One step's times in seconds."""

    whole: float
    decode: float

    @property
    def overhead(self) -> float:
        """The share of the step that is not llama_decode."""
        return 1 - self.decode / self.whole


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The command line."""

    model: Path
    steps: int
    sequences: int
    threads: int
    json: Path | None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Medians over the steps with one kind of sampling."""

    sampling: str
    sequences: int
    step_seconds: float
    decode_seconds: float
    overhead: float
    other_cores: float
    """Cores used by other processes on the machine."""


def measure(timer: DecodeTimer, model: Model, name: str, options: Options) -> Result:
    """Measure steps in which all sequences decode."""
    backend = LlamaBackend(
        model,
        ContextOptions(
            _ENGINE.kv_cache_tokens, max_batch_tokens(options.sequences, _ENGINE.max_batched_tokens), options.threads
        ),
    )
    try:
        batcher = Batcher(
            backend,
            model.vocabulary,
            max_sequences=options.sequences,
            max_batched_tokens=_ENGINE.max_batched_tokens,
            host_cache_tokens=_ENGINE.kv_cache_tokens,
        )
        _fill(batcher, model, _SAMPLINGS[name], options)
        with Stopwatch({}) as watch:
            timed_steps = [_timed_step(timer, batcher) for _ in range(options.steps)]
    finally:
        backend.close()
    return Result(
        sampling=name,
        sequences=options.sequences,
        step_seconds=statistics.median(step.whole for step in timed_steps),
        decode_seconds=statistics.median(step.decode for step in timed_steps),
        overhead=statistics.median(step.overhead for step in timed_steps),
        other_cores=watch.other_cores,
    )


def _fill(batcher: Batcher, model: Model, sampling: SamplingParams, options: Options) -> None:
    """Step until the prompts of all sequences are computed."""
    source = random.Random("step")
    prompts = [model.vocabulary.tokenize(text(source, PROMPT_WORDS)) for _ in range(options.sequences)]
    prefill_steps = sum(map(len, prompts))  # An upper bound: every step computes at least one token.
    most_tokens = (prefill_steps + options.steps) * (1 + MAX_DRAFT_TOKENS)
    for number, prompt in enumerate(prompts):
        batcher.add(EngineRequest((0, number), prompt, sampling, most_tokens), 1, number)
    for _ in range(prefill_steps):
        batcher.step()
        if sum(sequence.pending == 1 for sequence in batcher.scheduler.running) == options.sequences:
            return
    raise RuntimeError("the sequences never decoded together")


def _timed_step(timer: DecodeTimer, batcher: Batcher) -> Step:
    timer.decode_seconds = 0.0
    started = time.perf_counter()
    outcomes = batcher.step()
    whole = time.perf_counter() - started
    if any(isinstance(outcome.event, Finished) for outcome in outcomes):
        raise RuntimeError("a sequence ended before the measurement did")
    return Step(whole, timer.decode_seconds)


def _report(results: list[Result]) -> str:
    rows = [("", "step", "llama_decode", "overhead", f"bar {MAX_OVERHEAD:.0%}", "other cores")]
    rows += [
        (
            result.sampling,
            milliseconds(result.step_seconds),
            milliseconds(result.decode_seconds),
            f"{result.overhead:.1%}",
            "met" if result.overhead <= MAX_OVERHEAD else "MISSED",
            f"{result.other_cores:.2f}",
        )
        for result in results
    ]
    return table(rows)


def _parse() -> Options:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=200, help="measured of each kind (default: 200)")
    parser.add_argument(
        "--sequences", type=int, default=_ENGINE.max_sequences, help="that decode together (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="of the engine (default: 2)")
    parser.add_argument("--model", type=Path, help="a .gguf file (default: the bundled model as it is served)")
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    if not 1 <= arguments.steps <= MAX_STEPS or not 1 <= arguments.sequences <= MAX_SEQUENCES or arguments.threads < 1:
        parser.error(f"--steps goes from 1 to {MAX_STEPS}, --sequences to {MAX_SEQUENCES}, --threads from 1")
    model = arguments.model or faster_file(bundled().path, progress=False, notify=print)
    return Options(
        model=model,
        steps=arguments.steps,
        sequences=arguments.sequences,
        threads=arguments.threads,
        json=arguments.json,
    )


def main() -> None:
    """Measure and print."""
    options = _parse()
    model = load_model(
        options.model, None, ContextOptions(_ENGINE.kv_cache_tokens, _ENGINE.max_batched_tokens, options.threads)
    )
    timer = DecodeTimer(model.library)
    results = [measure(timer, model, name, options) for name in _SAMPLINGS]
    model.close()
    print(f"{options.model.name}: medians of {options.steps} steps, ", end="")
    print(f"{options.sequences} sequences, {options.threads} threads\n")
    print(_report(results))
    write_json(options.json, results)


if __name__ == "__main__":
    main()
