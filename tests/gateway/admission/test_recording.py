from pathlib import Path

from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.core.service import Caller
from dragoman.gateway.admission.controller import AdmissionRequest
from dragoman.gateway.admission.recording import UsageRecordingAuthenticator
from dragoman.gateway.auth.account_keys import AccountsOptions
from dragoman.gateway.auth.static_keys import UNMETERED
from tests.support.metered import sqlite_account


def admission_request(number: int) -> AdmissionRequest:
    return AdmissionRequest(Caller(f"{number:032}", None), "arcee", "echo", "echo", 0, 0, is_buffered=True)


async def test_an_unresponsive_database_blocks_no_request(tmp_path: Path) -> None:
    with sqlite_account(tmp_path, busy_seconds=0.01) as account_fixture:
        journals = tmp_path / "journals"
        options = AccountsOptions(account_fixture.database, journals, timeout_seconds=0.05, transport=LedgerThread)
        authenticator = UsageRecordingAuthenticator((), options)
        async with authenticator.opened():
            with account_fixture.database.write():
                assert await authenticator.admit(admission_request(1)) is UNMETERED
            (await authenticator.admit(admission_request(2))).settle("finished")
        assert [used.request_id[-1] for used in account_fixture.usage if used.result == "finished"] == ["2"]
        account_fixture.assert_settled()
