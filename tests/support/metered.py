"""The whole app in this process, in front of one engine called echo, with accounts."""

import contextlib
import functools
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from dragoman.accounts.administration.accounts import Account, create_account, deposit, find_account
from dragoman.accounts.administration.consistency import find_discrepancies
from dragoman.accounts.administration.keys import Key, KeyRules, create_key, list_keys
from dragoman.accounts.administration.prices import set_price
from dragoman.accounts.administration.usage import UsageRecord, list_usage
from dragoman.accounts.database.connections import Database
from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.accounts.process.transport import LedgerTransport
from dragoman.engines.base import Engine
from dragoman.gateway.ledger_connection import AccountsOptions
from dragoman.server.accounting import AccountingServices
from dragoman.server.app import App
from tests.support.apps import echo_app
from tests.support.ledger_harness import CACHED_PRICE, COMPLETION_PRICE, PROMPT_PRICE
from tests.support.sqlite_files import SqliteTemplate, create_sqlite_template

MODEL = "echo"
AMPLE_BALANCE = 10**12


class AccountFixture:
    """One account and a price for the model."""

    def __init__(self, database: Database, balance: int = AMPLE_BALANCE, *, account_id: int | None = None) -> None:
        """Create both, unless the database has them: then `account_id` is that of its account."""
        self.database = database
        self.account_id = create_priced_account(database, balance) if account_id is None else account_id

    @property
    def url(self) -> str:
        """The URL of the database, for further connections."""
        return self.database.url

    def new_key(self, rules: KeyRules | None = None) -> str:
        """Create a key and return its secret."""
        return create_key(self.database, self.account_id, rules=rules).secret

    @property
    def account(self) -> Account:
        return find_account(self.database, str(self.account_id))

    @property
    def keys(self) -> Sequence[Key]:
        return list_keys(self.database)

    @property
    def usage(self) -> list[UsageRecord]:
        """The latest requests first."""
        return list_usage(self.database, limit=100_000)

    def assert_settled(self) -> None:
        """Assert that all sums balance and that nothing is held."""
        assert find_discrepancies(self.database) == []
        assert self.account.holds == 0
        assert [key.running for key in self.keys] == [0] * len(self.keys)


def create_priced_account(database: Database, balance: int = AMPLE_BALANCE) -> int:
    """Create an account and a price for the model. Return the account's id."""
    account_id = create_account(database, "acme").id
    if balance:
        deposit(database, account_id, balance)
    set_price(database, MODEL, PROMPT_PRICE, COMPLETION_PRICE, cached=CACHED_PRICE)
    return account_id


@functools.cache
def _template(balance: int) -> SqliteTemplate[int]:
    return create_sqlite_template(lambda database: create_priced_account(database, balance))


def cost(prompt: int, completion: int, cached: int = 0) -> int:
    """Compute the charge for tokens of the model."""
    return (prompt - cached) * PROMPT_PRICE + cached * CACHED_PRICE + completion * COMPLETION_PRICE


@contextlib.contextmanager
def sqlite_account(folder: Path, balance: int = AMPLE_BALANCE, *, busy_seconds: float = 5) -> Iterator[AccountFixture]:
    """Create an account in a new database file."""
    template = _template(balance)
    database = Database(template.copy_to(folder / "accounts.db"), busy_seconds=busy_seconds)
    yield AccountFixture(database, account_id=template.result)
    database.close()


@contextlib.asynccontextmanager
async def metered_app(
    account_fixture: AccountFixture,
    journals: Path,
    *,
    engine: Engine | None = None,
    hold_cap: int | None = None,
    timeout_seconds: float = 30,
    proxies: Sequence[str] = (),
    transport: type[LedgerTransport] = LedgerThread,
) -> AsyncIterator[App]:
    """Open the app on the account's database; at the end of the block all its requests are settled."""
    accounting = AccountingServices(
        AccountsOptions(
            database=account_fixture.database,
            journals=journals,
            hold_cap=hold_cap,
            timeout_seconds=timeout_seconds,
            transport=transport,
        )
    )
    async with accounting.opened():
        yield echo_app(accounting=accounting, engine=engine, trusted_proxies=proxies)
