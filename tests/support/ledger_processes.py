"""Functions that tests run in other processes, at a ledger: top-level, so that they can be imported there."""

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
from dragoman.accounts.ledger.operations import Admission
from dragoman.accounts.process.client import LedgerClient
from dragoman.accounts.process.opening import LedgerResources, open_ledger
from dragoman.accounts.process.transport import LedgerTransport
from dragoman.core.context import new_request_id
from dragoman.core.errors import DragomanError
from tests.support.ledger_harness import MODEL, settlement
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

PROMPT_TOKENS = 10

RECORD_BYTES = 34
"""The size of a record: a request id of 32 characters and a token count of two digits."""


class AdmissionLoad(NamedTuple):
    """A number of concurrent requests."""

    url: str
    key_digest: str
    requests: int


def run_admissions(spec: AdmissionLoad, barrier: Barrier, results: Connection) -> None:
    """Send all admissions at the same moment as the other processes; report the number of each outcome."""
    results.send(asyncio.run(_run_admissions(spec, barrier)))


async def _run_admissions(spec: AdmissionLoad, barrier: Barrier) -> "Counter[str]":
    async def admit_one() -> str:
        try:
            await ledger.admit(_admission(new_request_id(), spec.key_digest, max_completion=0))
        except DragomanError as refusal:
            return type(refusal).__name__
        return "Admitted"

    async with LedgerClient(Database(spec.url), new_process_id(), timeout_seconds=30) as ledger:
        barrier.wait(timeout=TEST_TIMEOUT_SECONDS)
        return Counter(await asyncio.gather(*(admit_one() for _ in range(spec.requests))))


class ServerSpec(NamedTuple):
    """A server that runs until it is killed."""

    url: str
    journals: Path
    key_digest: str
    seed: int
    transport: type[LedgerTransport]


def serve(spec: ServerSpec, client: Connection) -> None:
    """Run requests endlessly; send the client a record of each token, after recording it in the journal."""
    asyncio.run(_serve(spec, client.fileno()))


async def _serve(spec: ServerSpec, client: int) -> None:
    rng = random.Random(spec.seed)
    async with open_ledger(Database(spec.url), spec.journals, transport=spec.transport) as accounts:
        await asyncio.gather(*(_serve_requests(accounts, spec.key_digest, client, rng) for _ in range(8)))


async def _serve_requests(accounts: LedgerResources, key_digest: str, client: int, rng: random.Random) -> None:
    while True:
        request_id = new_request_id()
        await accounts.ledger.admit(_admission(request_id, key_digest, max_completion=20))
        slot = accounts.journal.open(request_id)
        tokens = rng.randint(1, 12)
        for token in range(1, tokens + 1):
            slot.record(PROMPT_TOKENS, 0, token)
            os.write(client, f"{request_id}{token:02}".encode())
            await asyncio.sleep(0)
        await accounts.ledger.settle(settlement(request_id, PROMPT_TOKENS, completion=tokens))
        slot.close()


def _admission(request_id: str, key_digest: str, max_completion: int) -> Admission:
    return Admission(
        request_id=request_id,
        key_digest=key_digest,
        model=MODEL,
        dialect="arcee",
        prompt_tokens=PROMPT_TOKENS,
        max_completion_tokens=max_completion,
    )
