"""Answers in the database as the event loop sees them: what fails, what is forgotten, and whoever dies."""

import asyncio
import multiprocessing
import sqlite3
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from dragoman.accounts.database import Database
from dragoman.accounts.ledger_thread import LedgerThread
from dragoman.accounts.migrations import upgrade
from dragoman.core.errors import Overloaded
from dragoman.core.idempotency import Attempt, Claimed, KeptAnswer, Running
from dragoman.gateway.accounts import AccountsOptions
from dragoman.gateway.answers import DatabaseAnswers
from dragoman.server.books import Books
from tests.support.books import books_at
from tests.support.patience import PATIENCE_SECONDS

ATTEMPT = Attempt("caller", "key", "fingerprint")
ANSWER = KeptAnswer(200, (), b"{}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    database = Database(f"sqlite:///{tmp_path}/accounts.db")
    upgrade(database)
    database.close()
    return tmp_path / "accounts.db"


@pytest.fixture
def books(path: Path, tmp_path: Path) -> Iterator[Books]:
    database = Database(f"sqlite:///{path}", busy_seconds=0.05)
    books = Books(AccountsOptions(database, tmp_path / "journals", transport=LedgerThread))
    yield books
    books.close()


def locked(path: Path) -> sqlite3.Connection:
    """A connection that keeps every other from writing."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    return connection


async def claimed(answers: DatabaseAnswers) -> Claimed:
    claim = await answers.claim(ATTEMPT)
    assert isinstance(claim, Claimed)
    return claim


async def test_a_database_that_does_not_answer_lets_nobody_run_a_request_twice(books: Books, path: Path) -> None:
    async with books.opened():
        lock = locked(path)
        with pytest.raises(Overloaded) as refused:
            await books.answers.claim(ATTEMPT)
        assert refused.value.retry_after == 5
        lock.close()
        assert isinstance(await books.answers.claim(ATTEMPT), Claimed)


async def test_what_could_not_be_released_is_found_by_the_sweep(books: Books, path: Path) -> None:
    async with books.opened():
        claim = await claimed(books.answers)
        lock = locked(path)
        await books.answers.keep(ATTEMPT, claim, ANSWER)
        books.answers.release(ATTEMPT, claim)
        await asyncio.sleep(0)  # Its turn comes before the sweep's.
        with pytest.raises(Overloaded):
            await books.answers.sweep()
        lock.close()
        assert await books.answers.claim(ATTEMPT) == Running()
        assert await books.answers.sweep() == 1
        held = await claimed(books.answers)
        assert await books.answers.sweep() == 0
        await books.answers.keep(ATTEMPT, held, ANSWER)
        assert await books.answers.claim(ATTEMPT) == ANSWER


async def test_a_claim_whose_caller_is_cancelled_is_nobodys(books: Books) -> None:
    async with books.opened():
        asking = asyncio.create_task(books.answers.claim(ATTEMPT))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        await books.answers.sweep()
        assert isinstance(await books.answers.claim(ATTEMPT), Claimed)


def _claim_and_wait(path: Path, journals: Path, parent: Connection) -> None:
    async def live() -> None:
        with books_at(f"sqlite:///{path}", journals) as books:
            async with books.opened():
                parent.send(await books.answers.claim(ATTEMPT))
                await asyncio.Event().wait()

    asyncio.run(live())


async def test_the_claim_of_a_killed_process_is_taken_over_by_the_next_that_starts(
    books: Books, path: Path, tmp_path: Path
) -> None:
    spawn = multiprocessing.get_context("spawn")
    told, tells = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_claim_and_wait, args=(path, tmp_path / "journals", tells))
    process.start()
    assert told.poll(PATIENCE_SECONDS), "the process has claimed"
    assert isinstance(told.recv(), Claimed)
    assert await books.answers.claim(ATTEMPT) == Running()
    process.kill()
    process.join(60)
    async with books.opened():
        assert isinstance(await books.answers.claim(ATTEMPT), Claimed)
