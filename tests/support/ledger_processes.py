"""What other processes do to a ledger in the tests: top-level functions, so that they can be started there."""

import asyncio
import os
import random
from collections import Counter
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import NamedTuple

from dragoman.accounts.client import LedgerClient
from dragoman.accounts.database import Database
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.opening import Accounts, open_accounts
from dragoman.accounts.operations import Admission, Settlement
from dragoman.accounts.refusals import Refusal
from dragoman.core.identifiers import new_request_id
from tests.support.accounts import MODEL
from tests.support.patience import PATIENCE_SECONDS

PROMPT_TOKENS = 10

RECORD_BYTES = 34
"""A request's id of 32 characters and a number of tokens of two digits."""


class Rush(NamedTuple):
    """So many requests at once."""

    url: str
    key_digest: str
    requests: int


def rush(order: Rush, together: Barrier, results: Connection) -> None:
    """Ask for all of them in the same moment as the other processes; send how often each outcome came."""
    results.send(asyncio.run(_rush(order, together)))


async def _rush(order: Rush, together: Barrier) -> "Counter[str]":
    async def ask() -> str:
        admission = Admission(new_request_id(), order.key_digest, MODEL, "arcee", PROMPT_TOKENS, 0)
        try:
            await ledger.admit(admission)
        except Refusal as refusal:
            return type(refusal).__name__
        return "Admitted"

    async with LedgerClient(Database(order.url), new_process_id(), patience_seconds=30) as ledger:
        together.wait(timeout=PATIENCE_SECONDS)
        return Counter(await asyncio.gather(*(ask() for _ in range(order.requests))))


class Service(NamedTuple):
    """A server's life, until it is killed."""

    url: str
    journals: Path
    key_digest: str
    seed: int


def serve(order: Service, client: Connection) -> None:
    """Answer requests without end; the client is sent a record for each token, after it was noted in the journal."""
    asyncio.run(_serve(order, client.fileno()))


async def _serve(order: Service, client: int) -> None:
    chance = random.Random(order.seed)
    async with open_accounts(Database(order.url), order.journals) as accounts:
        await asyncio.gather(*(_answer_for_ever(accounts, order.key_digest, client, chance) for _ in range(8)))


async def _answer_for_ever(accounts: Accounts, key_digest: str, client: int, chance: random.Random) -> None:
    while True:
        request_id = new_request_id()
        await accounts.ledger.admit(Admission(request_id, key_digest, MODEL, "arcee", PROMPT_TOKENS, 20))
        slot = accounts.journal.open(request_id)
        tokens = chance.randint(1, 12)
        for token in range(1, tokens + 1):
            slot.tokens(PROMPT_TOKENS, 0, token)
            os.write(client, f"{request_id}{token:02}".encode())
            await asyncio.sleep(0)
        await accounts.ledger.settle(Settlement(request_id, PROMPT_TOKENS, 0, tokens, "finished"))
        slot.close()
