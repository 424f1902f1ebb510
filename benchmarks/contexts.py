"""What a token costs behind a long prompt: the embedded engine beside llama.cpp's own server, from 1 k tokens to 32 k.

    .venv/bin/python -m benchmarks.contexts            # a random llama of 4 layers
    .venv/bin/python -m benchmarks.contexts --bundled  # the bundled model, up to the 8,192 tokens it was trained for

What is measured and how to read it: benchmarks/README.md.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import time
from pathlib import Path

import msgspec
import uvloop

from benchmarks.engine import OURS, THEIRS, model_name
from benchmarks.harness.connection import Connection, UnexpectedResponse, json_post
from benchmarks.harness.figures import medians, table, write_json
from benchmarks.harness.processes import Server, dragoman_server, exit_on_sigterm, module_server
from benchmarks.harness.stopwatch import Stopwatch
from benchmarks.llama_server import LlamaServerOptions
from benchmarks.random_llama import random_llama
from dragoman.engines.llama.weights.sources import bundled

LENGTHS = (1024, 2048, 4096, 8192, 16_384, 32_768)
BUNDLED_LENGTHS = (1024, 2048, 4096, 7936)
DECODED_TOKENS = 32

_PATH = "/v1/completions"
_SPARE_CELLS = 256
_REQUEST_SECONDS = 600
_BYTE_TOKENS = range(3, 259)
"""Of the random model. Those of the bundled one are any of its vocabulary."""
_PLAIN_TOKENS = range(1000, 40_000)


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One server's figures for the prompt tokens between two lengths, or their medians."""

    prefill_seconds_per_token: float
    """Of the tokens behind the prompt of the length before, which the server has still in its cache."""
    decode_seconds_per_token: float
    """Of an answer to the whole prompt."""
    other_cores: float
    """Cores used by other processes on the machine."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The results of one length. The keys are the servers' names."""

    tokens: int
    """Of the prompt."""
    rounds: dict[str, list[Round]]
    medians: dict[str, Round]


class Conversation:
    """A prompt that grows, asked of one server."""

    def __init__(self, server: Server, seed: str, vocabulary: range) -> None:
        self._server = server
        self._model = model_name(server.url)
        self._source = random.Random(seed)
        self._vocabulary = vocabulary
        self._prompt: list[int] = []

    def grow(self, length: int) -> Round:
        """Measure the tokens up to `length`. Raises UnexpectedResponse."""
        added = length - len(self._prompt)
        self._prompt += [self._source.choice(self._vocabulary) for _ in range(added)]
        with Stopwatch({"server": self._server}) as watch:
            prefill = self._seconds(1)
            first = self._seconds(1)
            decode = self._seconds(1 + DECODED_TOKENS)
        return Round(
            prefill_seconds_per_token=prefill / added,
            decode_seconds_per_token=(decode - first) / DECODED_TOKENS,
            other_cores=watch.other_cores,
        )

    def _seconds(self, tokens: int) -> float:
        body = {
            "model": self._model,
            "prompt": self._prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
        started = time.perf_counter()
        usage = uvloop.run(_send(self._server.url, json_post(self._server.url, _PATH, body)))
        if usage != (len(self._prompt), tokens):
            raise UnexpectedResponse(f"{len(self._prompt)} and {tokens} tokens were asked for, {usage} reported")
        return time.perf_counter() - started


async def _send(url: str, request: bytes) -> tuple[int, int]:
    pieces: list[bytes] = []
    async with asyncio.timeout(_REQUEST_SECONDS):
        connection = await Connection.open(url)
        try:
            await connection.send(request, pieces.append)
        finally:
            connection.close()
    usage = msgspec.json.decode(b"".join(pieces))["usage"]
    return usage["prompt_tokens"], usage["completion_tokens"]


def _measure(servers: dict[str, Server], lengths: tuple[int, ...], vocabulary: range, rounds: int) -> list[Result]:
    """Run all rounds. At each length, the servers take turns."""
    for server in servers.values():  # No measured request is a server's first.
        Conversation(server, "first", vocabulary).grow(min(lengths))
    done: dict[int, dict[str, list[Round]]] = {length: {name: [] for name in servers} for length in lengths}
    for number in range(rounds):
        conversations = {name: Conversation(server, str(number), vocabulary) for name, server in servers.items()}
        for length in lengths:
            for name, conversation in conversations.items():
                figures = conversation.grow(length)
                done[length][name].append(figures)
                print(
                    f"{length:,} tokens, round {number + 1}: {name} {figures.prefill_seconds_per_token * 1000:.2f} ms "
                    f"a prompt token, {figures.decode_seconds_per_token * 1000:.1f} ms a generated one",
                    file=sys.stderr,
                )
    return [
        Result(tokens=length, rounds=by_server, medians={name: medians(each) for name, each in by_server.items()})
        for length, by_server in done.items()
    ]


def _report(results: list[Result]) -> str:
    rows = [("prompt", "prefill, ours", "theirs", "theirs / ours", "decode, ours", "theirs", "theirs / ours", "others")]
    for result in results:
        ours, theirs = result.medians[OURS], result.medians[THEIRS]
        rows.append(
            (
                f"{result.tokens:,}",
                f"{ours.prefill_seconds_per_token * 1000:.2f} ms",
                f"{theirs.prefill_seconds_per_token * 1000:.2f} ms",
                f"{theirs.prefill_seconds_per_token / ours.prefill_seconds_per_token:.2f}",
                f"{ours.decode_seconds_per_token * 1000:.1f} ms",
                f"{theirs.decode_seconds_per_token * 1000:.1f} ms",
                f"{theirs.decode_seconds_per_token / ours.decode_seconds_per_token:.2f}",
                f"{max(ours.other_cores, theirs.other_cores):.2f}",
            )
        )
    return table(rows)


def main() -> None:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contexts", description=__doc__.partition("\n")[0])
    parser.add_argument("--bundled", action="store_true", help="the bundled model instead of a random one")
    parser.add_argument("--lengths", help="tokens, such as 1024,2048 (default: all up to the model's bound)")
    parser.add_argument("--rounds", type=int, default=1, help="of each server (default: 1)")
    parser.add_argument("--threads", type=int, default=2, help="of either engine (default: 2)")
    parser.add_argument("--json", type=Path, help="file for the results of every round")
    options = parser.parse_args()
    lengths: tuple[int, ...] = BUNDLED_LENGTHS if options.bundled else LENGTHS
    if options.lengths is not None:
        lengths = tuple(map(int, options.lengths.split(",")))
    exit_on_sigterm()
    model = bundled().path if options.bundled else random_llama("Q8_0")
    cells = max(lengths) + _SPARE_CELLS
    ours = [str(model), "--max-sequences", "1", "--kv-cache-tokens", str(cells), "--threads", str(options.threads)]
    theirs = msgspec.json.encode(LlamaServerOptions(str(model), cells, 1, options.threads)).decode()
    with contextlib.ExitStack() as stack:
        servers = {
            OURS: stack.enter_context(dragoman_server(*ours)),
            THEIRS: stack.enter_context(module_server("benchmarks.llama_server", theirs)),
        }
        results = _measure(servers, lengths, _PLAIN_TOKENS if options.bundled else _BYTE_TOKENS, options.rounds)
    print(_report(results))
    write_json(options.json, results)


if __name__ == "__main__":
    try:
        main()
    except UnexpectedResponse as error:
        sys.exit(f"benchmarks.contexts: {error}")
