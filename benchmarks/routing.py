"""Compare the routing policies: prefix hits, latencies, and how evenly requests without a known prefix are spread.

    .venv/bin/python -m benchmarks.routing

It is a simulation, so that its figures depend on the seeds alone. What is measured and how to read it:
benchmarks/README.md.
"""

import argparse
from pathlib import Path

import msgspec

from benchmarks.harness.figures import TargetRatio, medians, table, write_json
from benchmarks.routing_simulation import Result, Simulation, Workload
from dragoman.gateway.routing.router_options import PolicyName

POLICIES: tuple[PolicyName, ...] = ("cache", "least", "weighted")
RATES = (2.0, 3.0, 4.0)
"""Requests per second: a little, much, and more load than `least` can bear."""

_HITS = TargetRatio(1.5)
_MAX_COLD_SPREAD = 0.2


class Row(msgspec.Struct, frozen=True):
    """Medians of the rounds of one policy at one rate."""

    policy: PolicyName
    requests_per_second: float
    figures: Result


def measure(rate: float, options: argparse.Namespace) -> list[Row]:
    """Simulate the policies with equal requests."""
    workloads = [
        Workload(requests=options.requests, requests_per_second=rate, seed=seed) for seed in range(options.rounds)
    ]
    return [
        Row(policy, rate, medians([Simulation(policy, workload).run() for workload in workloads]))
        for policy in POLICIES
    ]


def _report(rows: list[Row]) -> str:
    lines = [("", "busy", "prefix hits", "first token p50", "p95", "answer p50", "p95", "cold spread")]
    for row in rows:
        figures = row.figures
        lines.append(
            (
                f"{row.policy}, {row.requests_per_second:g}/s",
                f"{figures.busy_share:.0%}",
                f"{figures.hit_tokens / figures.prompt_tokens:.1%}",
                f"{figures.first_token_p50:.2f} s",
                f"{figures.first_token_p95:.2f} s",
                f"{figures.answer_p50:.2f} s",
                f"{figures.answer_p95:.2f} s",
                f"{figures.cold_spread:.0%}",
            )
        )
    return table(lines)


def _verdicts(rows: list[Row]) -> list[str]:
    """Judge `cache` beside `least` at each rate."""
    verdicts = []
    for rate in RATES:
        cache, least = (
            row.figures
            for policy in ("cache", "least")
            for row in rows
            if (row.policy, row.requests_per_second) == (policy, rate)
        )
        ratio = cache.hit_tokens / least.hit_tokens
        is_slower = cache.first_token_p95 > least.first_token_p95 or cache.answer_p95 > least.answer_p95
        verdicts.append(
            f"{rate:g}/s: prefix hits {ratio:.2f} times those of least ({_HITS.verdict(ratio)}), "
            f"p95 {'WORSE' if is_slower else 'no worse'}, "
            f"cold spread {'MISSED' if cache.cold_spread > _MAX_COLD_SPREAD else 'met'}"
        )
    return verdicts


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routing", description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=6_000, help="of each round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="with different seeds (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    rows = [row for rate in RATES for row in measure(rate, options)]
    print(_report(rows), *_verdicts(rows), sep="\n")
    write_json(options.json, rows)


if __name__ == "__main__":
    main()
