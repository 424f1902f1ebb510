"""Upstreams that are killed, paused, reset and slowed at random moments under load: is any promise broken?

    .venv/bin/python -m benchmarks.upstream_chaos

32 clients ask three upstreams through dragoman, with accounts. Every client must get its whole answer or a proper error
within its deadline; afterwards nothing may be in flight, held or computed for nobody, and the attempts must be within
the retry budget. Exit status 1: a promise was broken.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.harness.processes import exit_on_sigterm
from tests.support.chaos import ChaosReport, chaos
from tests.support.metered import sqlite_account

FAULTS_PER_ROUND = 20


async def _run(folder: Path, *, clients: int, faults: int, seed: int) -> ChaosReport:
    with sqlite_account(folder) as account_fixture:
        async with chaos(account_fixture, folder / "journals", seed) as load:
            for done in range(0, faults, FAULTS_PER_ROUND):
                await load.run_round(clients, min(FAULTS_PER_ROUND, faults - done))
                print(f"\r{min(done + FAULTS_PER_ROUND, faults)} of {faults} faults", end="", file=sys.stderr)
        print(file=sys.stderr)
        account_fixture.assert_settled()
        return load.report


def main() -> int:
    """Run the faults and print the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upstream_chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--faults", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--clients", type=int, default=32, help="at the same time (default: 32)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments (default: 1)")
    options = parser.parse_args()
    exit_on_sigterm()
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(_run(Path(folder), clients=options.clients, faults=options.faults, seed=options.seed))
    is_within_budget = report.attempts <= report.max_attempts
    print(
        json.dumps(
            {
                "outcomes": dict(report.outcomes.most_common()),
                "slowest_seconds": round(report.slowest_seconds, 2),
                "requests": report.requests,
                "attempts": report.attempts,
                "max_attempts": round(report.max_attempts),
                "violations": report.violations[:20],
            },
            indent=2,
        )
    )
    return 0 if is_within_budget and not report.violations else 1


if __name__ == "__main__":
    sys.exit(main())
