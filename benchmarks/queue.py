"""Measure the latency of submitting and claiming jobs, with few and with many jobs waiting.

    .venv/bin/python -m benchmarks.queue

See README.md in this folder for what is measured and how to read it.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.databases import add_databases_option, checkpoint, kind_of, new_databases, numbers
from benchmarks.harness.figures import TargetRatio, medians, percentile, table, write_json
from dragoman.accounts.administration.accounts import create_account, deposit
from dragoman.accounts.administration.keys import create_key
from dragoman.accounts.administration.prices import set_price
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from dragoman.accounts.ledger.operations import Admission
from dragoman.core.context import key_digest, new_request_id
from dragoman.core.jobs import JobDraft, StoredRequest
from dragoman.core.request import GenerationRequest, TextPrompt
from dragoman.jobs.storage.store import JobStore
from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.values.payloads import pack_requests, pack_stored_request, pack_submission
from dragoman.jobs.values.rows import AcceptedJob, PackedSubmission, Submission

FEW, MANY = 100, 100_000
OWNERS = 100

_MODEL = "parrot"
_PRIORITIES = (100, 128, 200)
_BAR = TargetRatio(0.5)

_PLACEHOLDER = {"sqlite": "?", "postgresql": "%s"}

_FILL = """
    INSERT INTO jobs (number, id, request_id, owner, dialect, model, priority, round, due, state, submitted_at,
                      prompt_tokens, most_completion_tokens, bytes)
    SELECT number, 'job_' || number, 'request ' || number, 'account ' || (number - number / {owners} * {owners}),
           'infermatic', '{model}', 100 + 50 * (number - number / 2 * 2), number / {owners},
           {now} + number, 'queued', {now}, 0, 0, 0
    FROM {numbers}
"""
_FILL_REQUESTS = """
    INSERT INTO job_requests (job, requests, form) SELECT number, {placeholder}, {placeholder} FROM {numbers}
"""
_SET_SEQUENCE = "SELECT setval(pg_get_serial_sequence('jobs', 'number'), {rows})"


class RoundLatencies(msgspec.Struct, frozen=True):
    """Percentiles of one round, in seconds."""

    submit_p50: float
    submit_p99: float
    claim_p50: float
    claim_p99: float


class DatabaseLatencies(msgspec.Struct, frozen=True):
    """Latencies on one database, with few and with many jobs waiting."""

    database: str
    few: RoundLatencies
    many: RoundLatencies


class Options(NamedTuple):
    """The options of the command line."""

    rounds: int
    jobs: int
    databases: list[str]
    json: Path | None


class FilledQueue:
    """A queue with waiting jobs of a hundred owners and two priorities."""

    def __init__(self, url: str, waiting: int) -> None:
        self.database = Database(url)
        upgrade(self.database)
        account = create_account(self.database, "benchmark")
        deposit(self.database, account.id, 10**15)
        self.digest = key_digest(create_key(self.database, account.id).secret)
        set_price(self.database, _MODEL, 150, 600)
        self._fill(waiting)
        self.store = JobStore(self.database, QueueOptions(), 1)

    def close(self) -> None:
        self.store.close()
        self.database.close()

    def measure(self, jobs: int) -> RoundLatencies:
        """Submit and claim jobs in turn, so that the number of waiting jobs stays the same."""
        submitting: list[float] = []
        claiming: list[float] = []
        for number in range(jobs):
            submission = self._submission(_PRIORITIES[number % len(_PRIORITIES)])
            started = time.perf_counter()
            [accepted] = self.store.accept([submission])
            submitting.append(time.perf_counter() - started)
            assert isinstance(accepted, AcceptedJob)
            started = time.perf_counter()
            claimed = self.store.claim([_MODEL], 1)
            claiming.append(time.perf_counter() - started)
            assert len(claimed) == 1
        return RoundLatencies(
            submit_p50=percentile(submitting, 50),
            submit_p99=percentile(submitting, 99),
            claim_p50=percentile(claiming, 50),
            claim_p99=percentile(claiming, 99),
        )

    def _submission(self, priority: int) -> PackedSubmission:
        request_id = new_request_id()
        draft = JobDraft(requests=(_request(),), stored_request=_stored_request(request_id), priority=priority)
        admission = Admission(
            request_id=request_id,
            key_digest=self.digest,
            model=_MODEL,
            dialect="infermatic",
            prompt_tokens=500,
            max_completion_tokens=500,
        )
        return pack_submission(Submission(draft, admission, ""))

    def _fill(self, waiting: int) -> None:
        kind = kind_of(self.database)
        values = {
            "numbers": numbers(kind, waiting),
            "owners": OWNERS,
            "model": _MODEL,
            "now": time.time_ns() // 1_000_000,
            "placeholder": _PLACEHOLDER[kind],
        }
        payloads = (pack_requests((_request(),)), pack_stored_request(_stored_request("0" * 32)))
        with self.database.write() as connection:
            connection.exec_driver_sql(_FILL.format(**values))
            connection.exec_driver_sql(_FILL_REQUESTS.format(**values), payloads)
            if kind == "postgresql":
                connection.exec_driver_sql(_SET_SEQUENCE.format(rows=waiting))
        checkpoint(self.database)


def _request() -> GenerationRequest:
    return GenerationRequest(model=_MODEL, prompt=TextPrompt("What is the capital of France? " * 20))


def _stored_request(request_id: str) -> StoredRequest:
    return StoredRequest(
        codec="infermatic.chat",
        arguments={},
        body=b'{"model": "parrot"}' * 20,
        answer_id=request_id,
        created_at=1_800_000_000,
    )


def _measure(name: str, few: FilledQueue, many: FilledQueue, options: Options) -> DatabaseLatencies:
    rounds: tuple[list[RoundLatencies], list[RoundLatencies]] = ([], [])
    for number in range(options.rounds):
        for queue, latencies in zip((few, many), rounds, strict=True):
            latencies.append(queue.measure(options.jobs))
        print(f"{name}, round {number + 1} of {options.rounds}", file=sys.stderr)
    return DatabaseLatencies(name, medians(rounds[0]), medians(rounds[1]))


def _report(result: DatabaseLatencies) -> str:
    rows = [
        (result.database, "submit p50", "p99", "claim p50", "p99"),
        *(
            (f"{count:,} waiting", *_figures(latencies))
            for count, latencies in ((FEW, result.few), (MANY, result.many))
        ),
    ]
    lines = [table(rows)]
    for name in ("submit", "claim"):
        ratio = getattr(result.few, f"{name}_p50") / getattr(result.many, f"{name}_p50")
        lines.append(f"  {name} p50, {FEW} / {MANY:,} waiting: {ratio:.2f} ({_BAR.verdict(ratio)})")
    return "\n".join(lines)


def _figures(latencies: RoundLatencies) -> Iterator[str]:
    for seconds in (latencies.submit_p50, latencies.submit_p99, latencies.claim_p50, latencies.claim_p99):
        yield f"{seconds * 1000:.2f} ms"


def _parse() -> Options:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queue", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--jobs", type=int, default=300, help="submitted and claimed in a round (default: 300)")
    add_databases_option(parser)
    parser.add_argument("--json", type=Path, help="file for the results")
    given = parser.parse_args()
    if given.rounds < 1 or given.jobs < 1:
        parser.error("--rounds and --jobs must be at least 1")
    return Options(given.rounds, given.jobs, given.databases, given.json)


def main() -> None:
    """Measure and print the latencies."""
    options = _parse()
    results = []
    for kind in options.databases:
        with new_databases(kind, 2, durable=True) as (few_url, many_url):
            few, many = FilledQueue(few_url, FEW), FilledQueue(many_url, MANY)
            results.append(_measure(kind, few, many, options))
            few.close()
            many.close()
    print(f"Medians of {options.rounds} rounds of {options.jobs} jobs each\n")
    print("\n\n".join(map(_report, results)))
    write_json(options.json, results)


if __name__ == "__main__":
    main()
