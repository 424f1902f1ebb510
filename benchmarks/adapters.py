"""The cost of a LoRA adapter in a decode step, and of changing it between two steps.

    .venv/bin/python -m benchmarks.adapters

What is measured and how to read it: benchmarks/README.md.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import gguf
import numpy as np

from benchmarks.harness.figures import milliseconds, table
from benchmarks.harness.stopwatch import Stopwatch
from dragoman.engines.llama.native.backend import NO_ADAPTER, Chunk
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.libraries.llama_cpp import LlamaCpp, packaged_llama_cpp
from dragoman.engines.llama.native.llama_backend import LlamaBackend
from dragoman.engines.llama.native.model import Model
from dragoman.engines.llama.weights.sources import bundled
from dragoman.server.settings import EngineSettings
from tests.support.tiny_llama import LowRank, write_adapter

RANK = 16
PROMPT_TOKENS = 64
_ENGINE = EngineSettings()


def write_random_adapter(path: Path, seed: int) -> Path:
    """Write an adapter of random numbers for every matrix in the bundled model's layers."""
    source = np.random.default_rng(seed)
    updates = {}
    for tensor in gguf.GGUFReader(bundled().path).tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2:
            columns, rows = map(int, tensor.shape)
            b, a = (source.normal(0, 0.01, shape).astype(np.float32) for shape in ((rows, RANK), (RANK, columns)))
            updates[tensor.name] = LowRank(b, a)
    return write_adapter(path, updates, alpha=RANK)


def measure(backend: LlamaBackend, adapters: list[int], sequences: int, steps: int) -> dict[tuple[int, bool], float]:
    """Return the seconds of the fastest step, by its adapter and whether the step before had another one.

    The fastest step counts, since other processes can only slow it down.
    """
    prompt = np.arange(100, 100 + PROMPT_TOKENS, dtype=np.int32)
    for sequence in range(sequences):
        backend.decode([Chunk(sequence, 0, prompt, False)])
    source, previous = random.Random("adapters"), NO_ADAPTER
    step_seconds: dict[tuple[int, bool], list[float]] = defaultdict(list)
    token = np.array([5], dtype=np.int32)
    for position in range(PROMPT_TOKENS, PROMPT_TOKENS + steps):
        adapter = source.choice([previous, source.choice(adapters)])
        started = time.perf_counter()
        backend.decode([Chunk(sequence, position, token, True) for sequence in range(sequences)], adapter)
        step_seconds[adapter, adapter != previous].append(time.perf_counter() - started)
        previous = adapter
    for sequence in range(sequences):
        backend.forget(sequence)
    return {kind: min(seconds) for kind, seconds in step_seconds.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adapters", description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300, help="of each number of sequences (default: 300)")
    parser.add_argument("--threads", type=int, default=2, help="of the engine (default: 2)")
    arguments = parser.parse_args()
    model = Model(LlamaCpp(packaged_llama_cpp()), bundled().path)
    backend = LlamaBackend(
        model, ContextOptions(_ENGINE.kv_cache_tokens, _ENGINE.max_batched_tokens, arguments.threads)
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = [write_random_adapter(Path(folder) / f"{seed}.gguf", seed) for seed in (1, 2)]
        adapters = [NO_ADAPTER, *(backend.load_adapter(path, 1.0) for path in paths)]
    rows = [("sequences", "model", "adapter", "adapter / model", "a change before the step", "other cores")]
    for sequences in (1, _ENGINE.max_sequences):
        with Stopwatch({}) as watch:
            fastest = measure(backend, adapters, sequences, arguments.steps)
        plain = fastest[NO_ADAPTER, False]
        adapted = statistics.mean(fastest[adapter, False] for adapter in adapters[1:])
        changes = [fastest[adapter, True] - fastest[adapter, False] for adapter in adapters]
        rows.append(
            (
                f"{sequences}",
                milliseconds(plain),
                milliseconds(adapted),
                f"{adapted / plain:.2f}",
                milliseconds(statistics.mean(changes)),
                f"{watch.other_cores:.2f}",
            )
        )
    backend.close()
    model.close()
    print(table(rows))


if __name__ == "__main__":
    main()
