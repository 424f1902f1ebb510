"""What other processes do to a ledger in the tests: top-level functions, so that they can be started there."""

import asyncio
import os
import random
from collections import Counter
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import NamedTuple

from dragoman.accounts.database.connections import Database
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.ledger.operations import Admission, Settlement
from dragoman.accounts.ledger.refusals import LedgerRefusal
from dragoman.accounts.process.client import LedgerClient
from dragoman.accounts.process.opening import LedgerResources, open_ledger
from dragoman.core.identifiers import new_request_id
from tests.support.accounts import MODEL
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

PROMPT_TOKENS = 10

RECORD_BYTES = 34
"""A request's id of 32 characters and a number of tokens of two digits."""


class AdmissionLoad(NamedTuple):
    """So many requests at once."""

    url: str
    key_digest: str
    requests: int


def run_admissions(spec: AdmissionLoad, barrier: Barrier, results: Connection) -> None:
    """Ask for all of them in the same moment as the other processes; send how often each outcome came."""
    results.send(asyncio.run(_run_admissions(spec, barrier)))


async def _run_admissions(spec: AdmissionLoad, barrier: Barrier) -> "Counter[str]":
    async def admit_one() -> str:
        admission = Admission(new_request_id(), spec.key_digest, MODEL, "arcee", PROMPT_TOKENS, 0)
        try:
            await ledger.admit(admission)
        except LedgerRefusal as refusal:
            return type(refusal).__name__
        return "Admitted"

    async with LedgerClient(Database(spec.url), new_process_id(), timeout_seconds=30) as ledger:
        barrier.wait(timeout=TEST_TIMEOUT_SECONDS)
        return Counter(await asyncio.gather(*(admit_one() for _ in range(spec.requests))))


class ServerSpec(NamedTuple):
    """A server's life, until it is killed."""

    url: str
    journals: Path
    key_digest: str
    seed: int


def serve(spec: ServerSpec, client: Connection) -> None:
    """Answer requests without end; the client is sent a record for each token, after it was noted in the journal."""
    asyncio.run(_serve(spec, client.fileno()))


async def _serve(spec: ServerSpec, client: int) -> None:
    rng = random.Random(spec.seed)
    async with open_ledger(Database(spec.url), spec.journals) as accounts:
        await asyncio.gather(*(_serve_requests(accounts, spec.key_digest, client, rng) for _ in range(8)))


async def _serve_requests(accounts: LedgerResources, key_digest: str, client: int, rng: random.Random) -> None:
    while True:
        request_id = new_request_id()
        await accounts.ledger.admit(Admission(request_id, key_digest, MODEL, "arcee", PROMPT_TOKENS, 20))
        slot = accounts.journal.open(request_id)
        tokens = rng.randint(1, 12)
        for token in range(1, tokens + 1):
            slot.record(PROMPT_TOKENS, 0, token)
            os.write(client, f"{request_id}{token:02}".encode())
            await asyncio.sleep(0)
        await accounts.ledger.settle(Settlement(request_id, PROMPT_TOKENS, 0, tokens, "finished"))
        slot.close()
