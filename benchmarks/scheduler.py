"""What a step costs besides the model with few and with many sequences, running and waiting, without any model.

    .venv/bin/python -m benchmarks.scheduler

What is measured and how to read it: benchmarks/README.md.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.harness.figures import TargetRatio, table, write_json
from dragoman.core.request import SamplingParams
from dragoman.engines.llama.arrays import Logits, SequenceState
from dragoman.engines.llama.batching.batcher import Batcher
from dragoman.engines.llama.batching.sequence import EngineRequest
from dragoman.engines.llama.native.backend import NO_ADAPTER, Chunk

STEP_SECONDS = 0.05
"""The duration of a model's step that the bar refers to."""

MAX_SHARE = 0.08
BAR_SEQUENCES = 256
GROWTH_BAR = TargetRatio(1)
"""The lowest cost of a sequence in the smallest engine by that in the largest."""

VOCABULARY_SIZE = 64
MAX_STEPS = 4000

_GREEDY = SamplingParams(temperature=0.0)


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """The sequences of an engine."""

    running: int
    waiting: int
    prompt_tokens: int
    owners: int
    engines: int = 1
    """Engines that have so many each, and take turns."""


LOADS = (
    Load(running=64, waiting=0, prompt_tokens=100, owners=1),
    Load(running=256, waiting=0, prompt_tokens=100, owners=1),
    Load(running=256, waiting=10_000, prompt_tokens=100, owners=1),
    Load(running=256, waiting=10_000, prompt_tokens=100, owners=10_000),
    Load(running=64, waiting=0, prompt_tokens=1000, owners=1, engines=16),
    Load(running=1000, waiting=10_000, prompt_tokens=1000, owners=100),
)


class RandomLogitsBackend:
    """Implements Backend: it holds no cells, and its logits are random numbers."""

    vocabulary_size = VOCABULARY_SIZE
    divisible_tokens = 2**31 - 1
    reuses_cells = True
    partitions = 1
    step_cells = 0

    def __init__(self, cells: int, sequence_ids: int) -> None:
        self.cells = cells
        self.sequence_ids = sequence_ids
        self.seconds = 0.0
        """Processor time of all decodes."""
        self._random = np.random.default_rng(0)

    def decode(self, chunks: Sequence[Chunk], adapter: int = NO_ADAPTER) -> Logits:  # noqa: ARG002
        started = time.thread_time()
        rows = sum(chunk.outputs for chunk in chunks)
        logits = self._random.random((rows, VOCABULARY_SIZE), dtype=np.float32)
        self.seconds += time.thread_time() - started
        return logits

    def place(self, sequence_id: int, partition: int) -> int:  # noqa: ARG002
        return 0

    def load_adapter(self, path: Path, scale: float) -> int:
        raise NotImplementedError("the benchmark has no adapters")

    def unload_adapter(self, adapter: int) -> None:
        raise NotImplementedError("the benchmark has no adapters")

    def can_share(self, sequence_id: int, length: int) -> bool:  # noqa: ARG002
        return True

    def share(self, source: int, target: int, start: int, end: int) -> None:
        pass

    def save(self, sequence_id: int) -> SequenceState:  # noqa: ARG002
        return np.zeros(1, dtype=np.uint8)

    def restore(self, sequence_id: int, state: SequenceState, adapter: int = NO_ADAPTER) -> bool:  # noqa: ARG002
        return False

    def forget(self, sequence_id: int) -> None:
        pass

    def truncate(self, sequence_id: int, length: int) -> None:
        pass

    def sweep(self) -> None:
        pass


class PlainVocabulary:
    """Implements DetokenizerVocabulary: every token is a letter."""

    end_token_ids: frozenset[int] = frozenset()

    def piece(self, token: int) -> bytes:  # noqa: ARG002
        return b"a"

    def is_special(self, token: int) -> bool:  # noqa: ARG002
        return False


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The processor time of a step in which all running sequences decode, without the model's."""

    load: Load
    step_seconds: float

    @property
    def seconds_per_sequence(self) -> float:
        """The time for one running sequence."""
        return self.step_seconds / self.load.running


def measure(load: Load, steps: int) -> Result:
    """Fill engines with the load, and measure steps."""
    engines = [_filled(load, steps) for _ in range(load.engines)]
    seconds = [_timed_step(batcher, backend) for _ in range(steps) for batcher, backend in engines]
    return Result(load=load, step_seconds=statistics.median(seconds))


def _filled(load: Load, steps: int) -> tuple[Batcher, RandomLogitsBackend]:
    """Return an engine whose running sequences all decode."""
    total = load.running * (load.prompt_tokens + steps + MAX_STEPS)
    backend = RandomLogitsBackend(total, load.running + 8)
    batcher = Batcher(
        backend,
        PlainVocabulary(),
        max_sequences=load.running,
        max_batched_tokens=8192,
        host_cache_tokens=0,
        clock=time.thread_time,
    )
    prompts = np.random.default_rng(1)
    for number in range(load.running + load.waiting):
        prompt = prompts.integers(1, 60_000, load.prompt_tokens).astype(np.int32)
        request = EngineRequest((0, number), prompt, _GREEDY, MAX_STEPS, owner=f"owner {number % load.owners}")
        batcher.add(request, 1, number)
    running = batcher.scheduler.running
    for _ in range(MAX_STEPS // 2):
        batcher.step()
        if len(running) == load.running and all(sequence.is_decoding for sequence in running):
            break
    return batcher, backend


def _timed_step(batcher: Batcher, backend: RandomLogitsBackend) -> float:
    backend.seconds = 0.0
    started = time.thread_time()
    batcher.step()
    return time.thread_time() - started - backend.seconds


def _report(results: list[Result]) -> str:
    rows = [("engines", "running in each", "waiting", "owners", "cells in use", "a step", "a sequence")]
    for result in results:
        load = result.load
        counts = (
            load.engines,
            load.running,
            load.waiting,
            load.owners,
            load.engines * load.running * load.prompt_tokens,
        )
        times = (f"{result.step_seconds * 1e3:.2f} ms", f"{result.seconds_per_sequence * 1e6:.1f} µs")
        rows.append((*(f"{count:,}" for count in counts), *times))  # type: ignore[arg-type]
    share = max(one.step_seconds for one in results if one.load.running == BAR_SEQUENCES) / STEP_SECONDS
    growth = results[0].seconds_per_sequence / results[-1].seconds_per_sequence
    in_turn = results[-2].seconds_per_sequence / results[-1].seconds_per_sequence
    return "\n".join(
        (
            table(rows),
            f"  of a step of {STEP_SECONDS * 1e3:.0f} ms with {BAR_SEQUENCES} sequences: {share:.1%} "
            f"(bar {MAX_SHARE:.0%}: {'met' if share <= MAX_SHARE else 'MISSED'})",
            f"  a sequence with the fewest by one with the most: {growth:.2f} ({GROWTH_BAR.verdict(growth)})",
            f"  a sequence of small engines that take turns by one with the most: {in_turn:.2f}",
        )
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduler", description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=20, help="measured of each load (default: 20)")
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    if not 1 <= arguments.steps <= MAX_STEPS // 2:
        parser.error(f"--steps goes from 1 to {MAX_STEPS // 2}")
    results = [measure(load, arguments.steps) for load in LOADS]
    print(f"processor time besides the model, medians of {arguments.steps} steps\n")
    print(_report(results))
    write_json(arguments.json, results)


if __name__ == "__main__":
    main()
