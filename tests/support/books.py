"""The accounts' database of a server in this process, with a shop in it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from dragoman.accounts.database import Database
from dragoman.accounts.ledger_thread import LedgerThread
from dragoman.accounts.migrations import upgrade
from dragoman.gateway.accounts import AccountsOptions
from dragoman.gateway.answers import LARGEST_ANSWER
from dragoman.server.books import Books
from tests.support.accounts import Till

ADMIN_KEY = "sk-admin-0123456789abcdef"


@contextlib.contextmanager
def open_till(url: str) -> Iterator[Till]:
    """A shop at the database, whose tables are made if need be."""
    database = Database(url)
    try:
        upgrade(database)
        with Till(database) as till:
            yield till
    finally:
        database.close()


@contextlib.contextmanager
def books_at(url: str, journals: Path, *, largest_answer: int = LARGEST_ANSWER) -> Iterator[Books]:
    """A worker's books over a database with tables, not opened: this process is not registered."""
    books = Books(AccountsOptions(Database(url), journals, transport=LedgerThread), largest_answer=largest_answer)
    try:
        yield books
    finally:
        books.close()
