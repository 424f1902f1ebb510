"""The first token behind a long prefix after a restart of the engine: computed, and read from disk.

    .venv/bin/python -m benchmarks.saved_prefixes

What is measured and how to read it: benchmarks/README.md.
"""

import argparse
import asyncio
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from benchmarks.harness.figures import TargetRatio, medians, milliseconds, table, write_json
from benchmarks.harness.stopwatch import Stopwatch, cpu_seconds
from dragoman.core.events import Delta, Usage
from dragoman.core.process_options import options_environment
from dragoman.core.request import GenerationRequest, SamplingParams, TokenPrompt
from dragoman.engines.llama.saved.prefix_file import checksum, read_head, write_prefix
from dragoman.engines.llama.weights.rewriting import faster_file
from dragoman.engines.llama.weights.sources import bundled
from dragoman.engines.llama.wire.options import EngineOptions, SavedPrefixOptions
from dragoman.engines.llama.worker.client import LlamaEngine
from dragoman.server.child_commands import SPIN_COUNT
from dragoman.server.settings import EngineSettings

PREFIX_TOKENS = 4000
QUESTION_TOKENS = 20
TARGET = TargetRatio(20)
_DEADLINE_SECONDS = 120.0

_ENGINE = EngineSettings()
"""The default settings."""


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds, of one prefix."""

    computed: float
    """To the first token, in a process that has never seen the prefix."""
    restored: float
    """To the first token, in the next process, with the files in the page cache."""
    restored_cold: float
    """The same with files that the page cache has not: they are read from the disk."""
    restored_among_files: float
    """To the first token, with `--files` files that begin like the prefix."""
    computed_cpu: float
    """Processor time of the engine process meanwhile, which other processes change little."""
    restored_cpu: float
    restored_cold_cpu: float
    restored_among_files_cpu: float
    ready: float
    """From the start of a process to its readiness, without a file."""
    ready_with_files: float
    """The same with them."""


class First(NamedTuple):
    """The first token of an answer."""

    seconds: float
    cpu: float
    """Processor time of the engine process, to the end of the answer of two tokens."""
    cached_tokens: int


def engine_options(folder: Path, threads: int) -> EngineOptions:
    """Return the options of an engine with the default settings, in this folder."""
    return EngineOptions(
        model_path=str(faster_file(bundled().path, progress=False, notify=print)),
        socket_path=str(folder / "engine.sock"),
        kv_cache_tokens=_ENGINE.kv_cache_tokens,
        kv_cache_partitions=_ENGINE.kv_cache_partitions,
        max_sequences=_ENGINE.max_sequences,
        threads=threads,
        max_batched_tokens=_ENGINE.max_batched_tokens,
        max_draft_tokens=_ENGINE.max_draft_tokens,
        host_cache_tokens=_ENGINE.kv_cache_tokens,
        max_waiting=4,
        max_adapters=4,
        saved_prefixes=SavedPrefixOptions(folder=str(folder / "prefixes"), max_bytes=2**40, owners={"": ""}),
    )


@asynccontextmanager
async def engine(options: EngineOptions) -> AsyncIterator[tuple[LlamaEngine, int, float]]:
    """Run an engine process. Yield its client, its process id, and the seconds from its start to its readiness."""
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dragoman.engines.llama.process"),
        env={**os.environ, "GOMP_SPINCOUNT": SPIN_COUNT, **options_environment(options)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    client = LlamaEngine(Path(options.socket_path))
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS):
            while await process.stdout.readline() != b"ready\n":
                pass  # Heartbeats.
            ready = time.perf_counter() - started
            await client.start()
            while client.fingerprint is None:
                await client.count_tokens(TokenPrompt((1,)))
            yield client, process.pid, ready
    finally:
        await client.close()
        process.terminate()
        await process.wait()


async def first_token(client: LlamaEngine, process_id: int, tokens: tuple[int, ...]) -> First:
    """Return the time to the first token after this prompt."""
    sampling = SamplingParams(temperature=0, max_tokens=2, ignore_eos=True)
    request = GenerationRequest(model="any", prompt=TokenPrompt(tokens), sampling=sampling)
    cpu_before = cpu_seconds(process_id)
    started, seconds, cached = time.perf_counter(), 0.0, 0
    async for event in client.generate(request):
        if isinstance(event, Delta) and not seconds:
            seconds = time.perf_counter() - started
        if isinstance(event, Usage):
            cached = event.cached_tokens
    return First(seconds, cpu_seconds(process_id) - cpu_before, cached)


def drop_page_cache(folder: Path) -> None:
    """Take the files out of the page cache."""
    for path in folder.rglob("*.prefix"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def add_small_files(folder: Path, count: int, source: random.Random) -> None:
    """Add saved prefixes that begin like the one that is there: a request that does reads all of their heads."""
    original = next(folder.glob("*/*.prefix"))
    head = read_head(original)
    root = original.name.partition("-")[0]
    state = np.zeros(64, dtype=np.uint8)
    for number in range(count):
        others = np.array(source.choices(range(1000, 40_000), k=PREFIX_TOKENS - 40), dtype="<i4")
        small = msgspec.structs.replace(
            head,
            start=0,
            tokens=head.tokens[: 40 * 4] + others.tobytes(),
            state_bytes=len(state),
            state_checksum=checksum(state),
        )
        write_prefix(original.with_name(f"{root}-{number:024x}.prefix"), small, state, lambda: False)


async def measure(seed: int, threads: int, files: int) -> Round:
    """Measure one prefix. Its question differs each time, so that only the prefix is known."""
    source = random.Random(seed)
    lengths = (PREFIX_TOKENS, *[QUESTION_TOKENS] * 5)
    prefix, *questions = [tuple(source.choices(range(1000, 40_000), k=length)) for length in lengths]
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        options = engine_options(folder, threads)

        async def start_and_ask(question: tuple[int, ...]) -> tuple[float, First]:
            async with engine(options) as (client, process_id, ready):
                await first_token(client, process_id, questions[0])  # The first step of a process is slower.
                return ready, await first_token(client, process_id, prefix + question)

        ready, computed = await start_and_ask(questions[1])
        assert computed.cached_tokens < QUESTION_TOKENS
        _, restored = await start_and_ask(questions[2])
        drop_page_cache(folder)
        _, cold = await start_and_ask(questions[3])
        add_small_files(folder / "prefixes", files, source)
        ready_with_files, among_files = await start_and_ask(questions[4])
        assert min(each.cached_tokens for each in (restored, cold, among_files)) >= PREFIX_TOKENS
    return Round(
        computed=computed.seconds,
        restored=restored.seconds,
        restored_cold=cold.seconds,
        restored_among_files=among_files.seconds,
        computed_cpu=computed.cpu,
        restored_cpu=restored.cpu,
        restored_cold_cpu=cold.cpu,
        restored_among_files_cpu=among_files.cpu,
        ready=ready,
        ready_with_files=ready_with_files,
    )


def children_seconds() -> float:
    """Return the processor time of all engine processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saved_prefixes", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="prefixes (default: 3)")
    parser.add_argument("--threads", type=int, default=2, help="of the engine (default: 2)")
    parser.add_argument("--files", type=int, default=1000, help="small files that begin alike (default: 1000)")
    parser.add_argument("--json", type=Path, help="write all rounds to this file")
    arguments = parser.parse_args()
    processor_seconds = children_seconds()
    with Stopwatch({}) as watch:
        rounds = [
            asyncio.run(measure(number, arguments.threads, arguments.files)) for number in range(arguments.rounds)
        ]
    own_cores = (children_seconds() - processor_seconds) / watch.seconds
    middle = medians(rounds)
    rows = [("", "first token", "of computing it", "processor time", "of computing it")]
    rows.append(
        (f"{PREFIX_TOKENS} tokens computed", milliseconds(middle.computed), "", milliseconds(middle.computed_cpu), "")
    )
    for label, seconds, cpu in (
        ("restored, files in the page cache", middle.restored, middle.restored_cpu),
        ("restored, files on disk", middle.restored_cold, middle.restored_cold_cpu),
        (f"restored, {arguments.files} other files", middle.restored_among_files, middle.restored_among_files_cpu),
    ):
        times, cpus = f"1/{middle.computed / seconds:.0f}", f"1/{middle.computed_cpu / cpu:.0f}"
        rows.append((label, milliseconds(seconds), times, milliseconds(cpu), cpus))
    print(table(rows))
    print(
        f"  {TARGET.verdict(min(one.computed / one.restored_cold for one in rounds))} (lowest of the rounds, on disk)"
    )
    among_files = milliseconds(middle.ready_with_files)
    print(f"  ready after {milliseconds(middle.ready)}, with {arguments.files} files {among_files}")
    print(f"  other processes: {max(0.0, watch.other_cores - own_cores):.2f} cores")
    write_json(arguments.json, rounds)


if __name__ == "__main__":
    main()
