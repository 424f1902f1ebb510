import itertools
from pathlib import Path

import pytest

from dragoman.accounts.administration.keys import KeyRules
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import keys
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.core.context import Caller, new_request_id
from dragoman.core.errors import TooManyRunning
from dragoman.core.events import Usage
from dragoman.gateway.admission.controller import AdmissionRequest
from dragoman.gateway.admission.ledger import LedgerAdmission
from dragoman.gateway.auth.account_keys import AccountKeyAuthenticator
from dragoman.gateway.ledger_connection import AccountsOptions, LedgerConnection
from tests.support.captured_logs import capture_logs
from tests.support.jobs.queue_harness import wait_until
from tests.support.metered import MODEL, cost, sqlite_account


def admission_request(key: str) -> AdmissionRequest:
    caller = Caller(request_id=new_request_id(), key=key)
    return AdmissionRequest(
        caller=caller,
        dialect="infermatic",
        model=MODEL,
        billed_model=MODEL,
        prompt_tokens=10,
        max_completion_tokens=20,
        is_buffered=True,
    )


def ledger_admission(options: AccountsOptions) -> LedgerAdmission:
    connection = LedgerConnection(options, new_process_id())
    return LedgerAdmission(connection, AccountKeyAuthenticator(connection))


async def test_a_client_may_send_its_next_request_to_any_process_once_its_answer_is_complete(tmp_path: Path) -> None:
    with sqlite_account(tmp_path) as account_fixture:
        key = account_fixture.new_key(KeyRules(concurrent_requests=1))
        databases = [Database(account_fixture.url) for _ in range(2)]
        first, second = (
            ledger_admission(AccountsOptions(database=database, journals=tmp_path / "journals", transport=LedgerThread))
            for database in databases
        )
        async with first.opened(), second.opened():
            for admission, _ in zip(itertools.cycle((first, second)), range(40), strict=False):
                reservation = await admission.admit(admission_request(key))
                reservation.observe_usage(Usage(10, 20, 0))
                reservation.settle("finished")
        for database in databases:
            database.close()
        account_fixture.assert_settled()
        assert len(account_fixture.usage) == 40


async def test_a_second_concurrent_request_is_refused(tmp_path: Path) -> None:
    with sqlite_account(tmp_path) as account_fixture:
        key = account_fixture.new_key(KeyRules(concurrent_requests=1))
        admission = ledger_admission(
            AccountsOptions(database=account_fixture.database, journals=tmp_path / "journals", transport=LedgerThread)
        )
        async with admission.opened():
            reservation = await admission.admit(admission_request(key))
            with pytest.raises(TooManyRunning):
                await admission.admit(admission_request(key))
            reservation.settle("disconnected")
        account_fixture.assert_settled()


async def test_a_settlement_that_fails_unexpectedly_is_repeated_until_it_succeeds(tmp_path: Path) -> None:
    with sqlite_account(tmp_path) as account_fixture:
        admission = ledger_admission(
            AccountsOptions(database=account_fixture.database, journals=tmp_path / "journals", transport=LedgerThread)
        )
        async with admission.opened():
            reservation = await admission.admit(admission_request(account_fixture.new_key()))
            reservation.observe_usage(Usage(10, 20, 0))
            _set_models(account_fixture.database, "changed by hand")
            with capture_logs() as logs:
                reservation.settle("finished")
                await wait_until(lambda: bool(logs))
            _set_models(account_fixture.database, None)
            await wait_until(lambda: bool(account_fixture.usage))
        assert [log["event"] for log in logs] == ["settlement_failed"]
        assert account_fixture.account.charges == cost(10, 20)
        account_fixture.assert_settled()


def _set_models(database: Database, models: str | None) -> None:
    with database.write() as connection:
        connection.execute(keys.update().values(models=models))
