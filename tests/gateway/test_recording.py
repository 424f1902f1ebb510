from pathlib import Path

from dragoman.accounts.ledger_thread import LedgerThread
from dragoman.core.service import Caller
from dragoman.gateway.access import Order
from dragoman.gateway.accounts import AccountsOptions
from dragoman.gateway.keys import FREE_OF_CHARGE
from dragoman.gateway.recording import RecordingKeyRing
from tests.support.metered import sqlite_customer


def order(number: int) -> Order:
    return Order(Caller(f"{number:032}", None), "arcee", "echo", "echo", 0, 0, delivered_at_once=True)


async def test_a_database_that_does_not_answer_stops_no_request(tmp_path: Path) -> None:
    with sqlite_customer(tmp_path, busy_seconds=0.01) as customer:
        journals = tmp_path / "journals"
        options = AccountsOptions(customer.database, journals, patience_seconds=0.05, transport=LedgerThread)
        ring = RecordingKeyRing((), options)
        async with ring.opened():
            with customer.database.write():
                assert await ring.admit(order(1)) is FREE_OF_CHARGE
            (await ring.admit(order(2))).settle("finished")
        assert [used.request_id[-1] for used in customer.usage if used.result == "finished"] == ["2"]
        customer.assert_settled()
