import itertools
from pathlib import Path

import pytest

from dragoman.accounts.administration.keys import KeyRules
from dragoman.accounts.database.connections import Database
from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.core.errors import TooManyRunning
from dragoman.core.events import Usage
from dragoman.core.identifiers import new_request_id
from dragoman.core.service import Caller
from dragoman.gateway.admission.controller import AdmissionRequest
from dragoman.gateway.auth.account_keys import AccountAccessController, AccountsOptions
from tests.support.metered import MODEL, sqlite_account


def admission_request(key: str) -> AdmissionRequest:
    caller = Caller(new_request_id(), key)
    return AdmissionRequest(caller, "infermatic", MODEL, MODEL, 10, 20, is_buffered=True)


async def test_a_client_may_send_its_next_request_to_any_process_once_its_answer_is_complete(tmp_path: Path) -> None:
    with sqlite_account(tmp_path) as account_fixture:
        key = account_fixture.new_key(KeyRules(concurrent_requests=1))
        databases = [Database(account_fixture.url) for _ in range(2)]
        first, second = (
            AccountAccessController(AccountsOptions(database, tmp_path / "journals", transport=LedgerThread))
            for database in databases
        )
        async with first.opened(), second.opened():
            for access, _ in zip(itertools.cycle((first, second)), range(40), strict=False):
                reservation = await access.admit(admission_request(key))
                reservation.observe(Usage(10, 20, 0))
                reservation.settle("finished")
        for database in databases:
            database.close()
        account_fixture.assert_settled()
        assert len(account_fixture.usage) == 40


async def test_a_second_concurrent_request_is_refused(tmp_path: Path) -> None:
    with sqlite_account(tmp_path) as account_fixture:
        key = account_fixture.new_key(KeyRules(concurrent_requests=1))
        access = AccountAccessController(
            AccountsOptions(account_fixture.database, tmp_path / "journals", transport=LedgerThread)
        )
        async with access.opened():
            reservation = await access.admit(admission_request(key))
            with pytest.raises(TooManyRunning):
                await access.admit(admission_request(key))
            reservation.settle("disconnected")
        account_fixture.assert_settled()
