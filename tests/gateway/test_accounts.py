import itertools
from pathlib import Path

import pytest

from dragoman.accounts.database import Database
from dragoman.accounts.keys import KeyRules
from dragoman.accounts.ledger_thread import LedgerThread
from dragoman.core.errors import TooManyRunning
from dragoman.core.events import Usage
from dragoman.core.identifiers import new_request_id
from dragoman.core.service import Caller
from dragoman.gateway.access import Order
from dragoman.gateway.accounts import AccountAccess, AccountsOptions
from tests.support.metered import MODEL, sqlite_customer


def order(key: str) -> Order:
    caller = Caller(new_request_id(), key)
    return Order(caller, "infermatic", MODEL, MODEL, 10, 20, delivered_at_once=True)


async def test_who_has_read_an_answer_may_ask_again_wherever_it_was_given(tmp_path: Path) -> None:
    with sqlite_customer(tmp_path) as customer:
        key = customer.new_key(KeyRules(concurrent_requests=1))
        databases = [Database(customer.url) for _ in range(2)]
        here, there = (
            AccountAccess(AccountsOptions(database, tmp_path / "journals", transport=LedgerThread))
            for database in databases
        )
        async with here.opened(), there.opened():
            for desk, _ in zip(itertools.cycle((here, there)), range(40), strict=False):
                bill = await desk.admit(order(key))
                bill.observe(Usage(10, 20, 0))
                bill.settle("finished")
        for database in databases:
            database.close()
        customer.assert_settled()
        assert len(customer.usage) == 40


async def test_a_request_beside_one_that_goes_on_is_refused(tmp_path: Path) -> None:
    with sqlite_customer(tmp_path) as customer:
        key = customer.new_key(KeyRules(concurrent_requests=1))
        access = AccountAccess(AccountsOptions(customer.database, tmp_path / "journals", transport=LedgerThread))
        async with access.opened():
            bill = await access.admit(order(key))
            with pytest.raises(TooManyRunning):
                await access.admit(order(key))
            bill.settle("disconnected")
        customer.assert_settled()
