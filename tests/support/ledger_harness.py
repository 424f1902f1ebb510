"""A ledger with one account, one key and one model with a price."""

from types import TracebackType
from typing import Any, Self

import msgspec
from sqlalchemy import select

from dragoman.accounts.administration.accounts import Account, create_account, deposit, find_account
from dragoman.accounts.administration.consistency import find_discrepancies
from dragoman.accounts.administration.keys import Key, KeyRules, create_key, get_key
from dragoman.accounts.administration.prices import set_price
from dragoman.accounts.administration.usage import UsageRecord
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.sessions import Clock, Instant
from dragoman.accounts.database.tables import metadata, schema_migrations, usage
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.ledger.ledger import Ledger
from dragoman.accounts.ledger.operations import (
    Admission,
    Admitted,
    LedgerOutcome,
    Settled,
    Settlement,
    SettlementResult,
)
from dragoman.core.context import key_digest, new_request_id

MODEL = "parrot"
PROMPT_PRICE, CACHED_PRICE, COMPLETION_PRICE = 10, 4, 30


class ManualClock(Clock):
    """A clock that stands still until a test moves it."""

    def __init__(self, wall: int = 1_800_000_000_000, second: int = 1_000) -> None:
        self.wall = wall
        self.second = second

    def now(self) -> Instant:
        return Instant(self.wall, self.second)

    def advance(self, seconds: int) -> None:
        self.wall += seconds * 1000
        self.second += seconds


def clear_tables(database: Database) -> None:
    """Delete all rows, as if the tables had just been created."""
    names = [name for name in metadata.tables if name != schema_migrations.name]
    with database.write() as connection:
        if database.is_sqlite:
            for name in reversed(names):
                connection.exec_driver_sql(f"DELETE FROM {name}")
        else:
            connection.exec_driver_sql(f"TRUNCATE {', '.join(names)} RESTART IDENTITY CASCADE")


def settlement(
    request_id: str,
    prompt: int = 1,
    cached: int = 0,
    completion: int = 1,
    result: SettlementResult = "finished",
    **fields: Any,
) -> Settlement:
    """Build a settlement."""
    return Settlement(
        request_id=request_id,
        prompt_tokens=prompt,
        cached_tokens=cached,
        completion_tokens=completion,
        result=result,
        **fields,
    )


def find_usage(database: Database, request_id: str) -> UsageRecord | None:
    """Return the usage of a request; None if it is not settled."""
    with database.read() as connection:
        row = connection.execute(select(usage).where(usage.c.request_id == request_id)).one_or_none()
    return None if row is None else msgspec.convert(row, UsageRecord, from_attributes=True)


class LedgerHarness:
    """Admits and settles requests of one key at a ledger."""

    def __init__(
        self, database: Database, *, balance: int = 1_000_000, rules: KeyRules | None = None, name: str = "acme"
    ) -> None:
        self.database = database
        self.account_id = create_account(database, name).id
        if balance:
            deposit(database, self.account_id, balance)
        self.secret, key = self.new_key(rules)
        self.key_id = key.id
        self.digest = key_digest(self.secret)
        set_price(database, MODEL, PROMPT_PRICE, COMPLETION_PRICE, cached=CACHED_PRICE)
        self.process_id = new_process_id()
        self.ledger = Ledger(database, self.process_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.ledger.close()

    def new_key(self, rules: KeyRules | None) -> tuple[str, Key]:
        created = create_key(self.database, self.account_id, rules=rules)
        return created.secret, created.key

    def use_new_key(self, rules: KeyRules) -> None:
        """Continue with a new key."""
        self.secret, key = self.new_key(rules)
        self.key_id = key.id
        self.digest = key_digest(self.secret)

    def admission(self, prompt: int = 10, max_completion: int = 10, **fields: Any) -> Admission:
        defaults: dict[str, Any] = {"key_digest": self.digest, "model": MODEL, "dialect": "arcee"}
        defaults |= {"request_id": new_request_id(), "prompt_tokens": prompt, "max_completion_tokens": max_completion}
        return Admission(**(defaults | fields))

    def try_admit(self, prompt: int = 10, max_completion: int = 10, **fields: Any) -> LedgerOutcome:
        """Commit an admission and return its outcome."""
        return self.ledger.commit([self.admission(prompt, max_completion, **fields)])[0]

    def admit(self, prompt: int = 10, max_completion: int = 10, **fields: Any) -> Admitted:
        """Commit an admission that must succeed."""
        outcome = self.try_admit(prompt, max_completion, **fields)
        assert isinstance(outcome, Admitted), outcome
        return outcome

    def settle(
        self,
        request_id: str,
        prompt: int = 10,
        cached: int = 0,
        completion: int = 10,
        result: SettlementResult = "finished",
        **fields: Any,
    ) -> Settled:
        """Commit a settlement that must succeed."""
        outcome = self.ledger.commit([settlement(request_id, prompt, cached, completion, result, **fields)])[0]
        assert isinstance(outcome, Settled), outcome
        return outcome

    def run_requests(self, count: int, **fields: Any) -> list[str]:
        """Admit and then settle requests of one prompt and one completion token, and return their ids."""
        request_ids = [self.admit(1, 1, **fields).request_id for _ in range(count)]
        for request_id in request_ids:
            self.settle(request_id, 1, 0, 1)
        return request_ids

    @property
    def account(self) -> Account:
        return find_account(self.database, str(self.account_id))

    @property
    def key(self) -> Key:
        return get_key(self.database, self.key_id)

    def assert_consistent(self) -> None:
        assert find_discrepancies(self.database) == []
