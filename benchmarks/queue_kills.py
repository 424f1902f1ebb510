"""Kill server, workers and engine with kill -9 at random moments while 1,000 queued requests run.

    .venv/bin/python -m benchmarks.queue_kills

Every job must finish, with the answer that the same request gets when nothing is killed, and be settled exactly once.
See docs/queue.md.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.databases import KINDS, new_databases
from benchmarks.harness.processes import exit_on_sigterm
from dragoman.accounts.administration.prices import set_price
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from tests.support.jobs.queue_clients import QueueClients, assert_each_charged_once
from tests.support.ledger_harness import CACHED_PRICE, COMPLETION_PRICE, PROMPT_PRICE
from tests.support.metered import AccountFixture
from tests.support.processes.killable_server import killable_server

_MAX_PAUSE_SECONDS = 3.0
_TIMEOUT_SECONDS = 1800
_TOKENS = 40
_BUNDLED_MODEL = "smollm2-135m-instruct"


def _bodies(model: str, jobs: int) -> list[dict[str, object]]:
    """Return requests that all have different answers."""
    return [
        {
            "model": model,
            "messages": [{"role": "user", "content": f"Tell me about the number {number}, please."}],
            "max_tokens": _TOKENS,
            "temperature": 0,
            "stream": False,
        }
        for number in range(jobs)
    ]


def _text(answer: Mapping[str, Any]) -> str:
    [choice] = answer["choices"]
    text: str = choice["message"]["content"]
    return text


async def _expected(clients: QueueClients, model: str, bodies: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the texts that the answers must have."""
    if model == "echo":
        return [body["messages"][0]["content"][:_TOKENS] for body in bodies]
    return list(map(_text, await clients.request_directly(bodies)))


async def _kill_repeatedly(options: argparse.Namespace, url: str) -> tuple[AccountFixture, Counter[str]]:
    rng = random.Random(options.seed)
    database = Database(url)
    upgrade(database)
    account_fixture = AccountFixture(database)
    model = "echo" if options.model == "echo" else _BUNDLED_MODEL
    if model != "echo":
        set_price(database, model, PROMPT_PRICE, COMPLETION_PRICE, cached=CACHED_PRICE)
    bodies = _bodies(model, options.jobs)
    killed: Counter[str] = Counter()
    environment = {
        "DRAGOMAN_ACCOUNTS_DATABASE": url,
        "DRAGOMAN_WORKERS": "2",
        "DRAGOMAN_ECHO_TOKENS_PER_SECOND": "8",
        # Otherwise the logits of an interrupted answer may differ in the last bit from those of an uninterrupted one.
        "DRAGOMAN_ENGINE_REPRODUCIBLE": "true",
    }
    with killable_server("echo" if model == "echo" else "", environment) as server:
        async with asyncio.timeout(_TIMEOUT_SECONDS), QueueClients(server.url, account_fixture.new_key()) as clients:
            submitting = asyncio.create_task(clients.submit(bodies))
            for number in range(options.kills):
                await asyncio.sleep(rng.uniform(0, _MAX_PAUSE_SECONDS))
                killed[await asyncio.to_thread(server.kill_random_process, rng)] += 1
                print(f"\r{number + 1} of {options.kills} kills", end="", file=sys.stderr)
            await submitting
            results = await clients.results()
            expected = await _expected(clients, model, bodies)
    print(file=sys.stderr)
    for number, text in enumerate(expected):
        assert results[number]["status"] == "finished", results[number]
        assert _text(results[number]["result"]) == text, (results[number], text)
    assert_each_charged_once(account_fixture, options.jobs * (1 if model == "echo" else 2))
    return account_fixture, killed


def _parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queue_kills", description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--kills", type=int, default=50, help="how often (default: 50)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments (default: 1)")
    parser.add_argument("--model", choices=("echo", "bundled"), default="echo", help="default: echo")
    parser.add_argument("--database", choices=KINDS, default="sqlite", help="default: sqlite")
    return parser.parse_args(arguments)


def main() -> None:
    """Kill processes, check the answers and print the counts."""
    options = _parse()
    exit_on_sigterm()
    started = time.monotonic()
    with new_databases(options.database, 1) as [url]:
        account_fixture, killed = asyncio.run(_kill_repeatedly(options, url))
        account_fixture.database.close()
    kills = ", ".join(f"{count} of the {what}" for what, count in killed.most_common())
    print(f"{options.database}, {options.model}: {options.jobs} jobs, {kills}, {time.monotonic() - started:.0f} s")
    print("each finished with its answer and settled once; nothing held")


if __name__ == "__main__":
    main()
