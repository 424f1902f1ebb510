"""What the start of a server takes: time until it is ready and has answered, processor time, memory.

    .venv/bin/python -m benchmarks.start                            # the default server, and one more worker
    .venv/bin/python -m benchmarks.start --against /path/to/checkout  # beside another commit, in turns

What is measured and how to read it: benchmarks/README.md.
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from benchmarks.harness.figures import medians, table, write_json
from benchmarks.harness.process_tree import measure_processes
from benchmarks.harness.processes import stop_process

HERE = Path(__file__).parent.parent
IDLE_SECONDS = 3.0
"""Time after the answer until the processes are measured."""

MEBIBYTE = 1024


class StartFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One start of a server."""

    ready_seconds: float
    """Until the address is printed."""
    answer_seconds: float
    """Until the first chat is answered."""
    idle_mebibytes: float
    """Of all processes, proportional, before the first request."""
    mebibytes: float
    """After it."""
    parent: float
    """Processor seconds, like the next ones."""
    worker: float
    ledger: float
    engine: float


def measure_start(checkout: Path, workers: int) -> StartFigures:
    """Start the server of a checkout with its defaults, let it answer one chat, and stop it."""
    with tempfile.TemporaryDirectory() as data, _started(checkout, data, workers) as (process, url, began):
        ready = time.monotonic() - began
        _chat(url)
        answered = time.monotonic() - began
        time.sleep(IDLE_SECONDS)
        after = measure_processes(process.pid)
    with tempfile.TemporaryDirectory() as data, _started(checkout, data, workers) as (process, url, began):
        time.sleep(IDLE_SECONDS)
        idle = measure_processes(process.pid)
    seconds: defaultdict[str, float] = defaultdict(float)
    for usage in after.values():
        seconds[usage.name] += usage.processor_seconds
    return StartFigures(
        ready_seconds=ready,
        answer_seconds=answered,
        idle_mebibytes=sum(usage.proportional_kibibytes for usage in idle.values()) / MEBIBYTE,
        mebibytes=sum(usage.proportional_kibibytes for usage in after.values()) / MEBIBYTE,
        parent=seconds["parent"],
        worker=seconds["worker"],
        ledger=seconds["ledger"],
        engine=seconds["engine"],
    )


@contextlib.contextmanager
def _started(checkout: Path, data: str, workers: int) -> Iterator[tuple["subprocess.Popen[str]", str, float]]:
    """Start a server; yield its process, its address and when it was started."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "dragoman", "serve", "--port", "0", "--workers", str(workers)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(checkout / "src"), "XDG_DATA_HOME": data, "DRAGOMAN_LOG_LEVEL": "warning"},
    )
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        yield process, next(found[1] for line in lines if (found := re.search(r"at (http://\S+)", line))), began
    finally:
        stop_process(process)


def _chat(url: str) -> None:
    with urllib.request.urlopen(f"{url}/v1/models") as response:
        model = json.load(response)["data"][0]["id"]
    body = {"model": model, "messages": [{"role": "user", "content": "What is the capital of France?"}]}
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps({**body, "max_tokens": 1}).encode(), headers
    )
    with urllib.request.urlopen(request) as response:
        response.read()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the medians of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path, help="another checkout of dragoman, whose server takes turns")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args(arguments)
    checkouts = [HERE, *([chosen.against] if chosen.against else [])]
    servers = [(checkout, workers) for workers in (1, 2) for checkout in checkouts]
    rounds: dict[tuple[Path, int], list[StartFigures]] = {each: [] for each in servers}
    for _ in range(chosen.rounds + 1):
        for checkout, workers in servers:
            rounds[checkout, workers].append(measure_start(checkout, workers))
    counted = {each: results[1:] for each, results in rounds.items()}  # The first start fills caches.
    fields = StartFigures.__struct_fields__
    rows = [
        [f"{checkout.name}, {workers} worker{'s' * (workers > 1)}"]
        + [f"{getattr(medians(results), field):.2f}" for field in fields]
        for (checkout, workers), results in counted.items()
    ]
    print(table([["", *fields], *rows]))
    write_json(chosen.json, {f"{checkout.name} {workers}": results for (checkout, workers), results in counted.items()})


if __name__ == "__main__":
    main()
