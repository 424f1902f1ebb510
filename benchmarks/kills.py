"""kill -9 of a worker at 200 random moments under load: is anything left held, unpaid or charged twice?

    .venv/bin/python -m benchmarks.kills

The clients stream endlessly; the next worker settles the dead one's requests from its journal. See docs/accounts.md.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.databases import KINDS, new_databases
from benchmarks.harness.processes import exit_on_sigterm
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from tests.support.dialects.streaming_clients import StreamingClients, assert_all_tokens_charged
from tests.support.metered import AccountFixture
from tests.support.processes.killable_worker import killable_worker

CLIENTS = 8
TOKENS_PER_SECOND = 300
_MAX_TOKENS_BETWEEN_KILLS = 300


async def _run_kills(url: str, folder: str, kills: int, seed: int) -> AccountFixture:
    """Kill the worker repeatedly. Raises AssertionError if the accounts are wrong afterwards."""
    rng = random.Random(seed)
    database = Database(url)
    upgrade(database)
    account_fixture = AccountFixture(database)
    with killable_worker(url, Path(folder) / "journals", tokens_per_second=TOKENS_PER_SECOND) as worker:
        async with StreamingClients(worker.url, account_fixture.new_key(), clients=CLIENTS, seed=seed) as clients:
            for number in range(kills):
                await clients.wait_for_tokens(rng.randint(1, _MAX_TOKENS_BETWEEN_KILLS))
                await asyncio.to_thread(worker.kill)
                print(f"\r{number + 1} of {kills} kills", end="", file=sys.stderr)
            await clients.wait_for_tokens(1)
    print(file=sys.stderr)
    assert_all_tokens_charged(account_fixture, clients)
    return account_fixture


def main() -> None:
    """Run the kills and print the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="how often (default: 200)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments (default: 1)")
    parser.add_argument("--database", choices=KINDS, default="sqlite", help="default: sqlite")
    options = parser.parse_args()
    exit_on_sigterm()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, new_databases(options.database, 1) as [url]:
        account_fixture = asyncio.run(_run_kills(url, folder, options.kills, options.seed))
        results = Counter(used.result for used in account_fixture.usage)
        tokens = sum(used.completion_tokens for used in account_fixture.usage)
        account_fixture.database.close()
    requests = ", ".join(f"{count} {result}" for result, count in results.most_common())
    print(f"{options.database}: {options.kills} kills in {time.monotonic() - began:.0f} s; {requests}; {tokens} tokens")
    print("nothing held, nothing delivered unpaid, nothing charged twice")


if __name__ == "__main__":
    main()
