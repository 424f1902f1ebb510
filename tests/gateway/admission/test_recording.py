import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from dragoman.accounts.database.connections import Database
from dragoman.accounts.ledger.operations import LedgerOperation
from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.core.context import Caller
from dragoman.gateway.admission.controller import AdmissionRequest
from dragoman.gateway.admission.recording import UsageRecordingAdmission
from dragoman.gateway.admission.reservation import UNMETERED
from dragoman.gateway.ledger_connection import AccountsOptions
from tests.support.captured_logs import capture_logs
from tests.support.metered import sqlite_account
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


def admission_request(number: int) -> AdmissionRequest:
    return AdmissionRequest(
        caller=Caller(request_id=f"{number:032}", key=None),
        dialect="arcee",
        model="echo",
        billed_model="echo",
        prompt_tokens=0,
        max_completion_tokens=0,
        is_buffered=True,
    )


async def test_an_unresponsive_database_blocks_no_request_and_loses_no_record(tmp_path: Path) -> None:
    with sqlite_account(tmp_path, busy_seconds=0.01) as account_fixture:
        journals = tmp_path / "journals"
        admission = UsageRecordingAdmission(
            AccountsOptions(database=account_fixture.database, journals=journals, transport=LedgerThread)
        )
        async with admission.opened():
            with account_fixture.database.write():
                (await admission.admit(admission_request(1))).settle("finished")
            (await admission.admit(admission_request(2))).settle("finished")
        assert [used.request_id[-1] for used in account_fixture.usage if used.result == "finished"] == ["2", "1"]
        account_fixture.assert_settled()


class SilentLedger(LedgerThread):
    """Receives operations and never answers."""

    def commit(self, operations: Sequence[LedgerOperation], *, is_retry: bool) -> None:
        pass


async def test_a_record_that_cannot_be_written_in_time_is_dropped(tmp_path: Path) -> None:
    with sqlite_account(tmp_path) as account_fixture:
        journals = tmp_path / "journals"
        options = AccountsOptions(
            database=account_fixture.database, journals=journals, timeout_seconds=0.05, transport=SilentLedger
        )
        admission = UsageRecordingAdmission(options)
        async with admission.opened(), asyncio.timeout(TEST_TIMEOUT_SECONDS):
            ended, running = [await admission.admit(admission_request(number)) for number in (1, 2)]
            ended.settle("finished")
            while not account_fixture.database.outage.is_active:
                await asyncio.to_thread(os.sched_yield)
            running.settle("finished")
        # Otherwise the journal would stay, for recovery to settle what is in it.
        assert list(journals.glob("*.journal-*")) == []
        assert account_fixture.usage == []


async def test_requests_wait_for_a_ledger_that_is_far_behind(tmp_path: Path) -> None:
    with sqlite_account(tmp_path, busy_seconds=0.01) as account_fixture:
        options = AccountsOptions(
            database=account_fixture.database,
            journals=tmp_path / "journals",
            timeout_seconds=1,
            transport=LedgerThread,
        )
        admission = UsageRecordingAdmission(options, max_unrecorded=0)
        async with admission.opened():
            with account_fixture.database.write():
                assert await admission.admit(admission_request(1)) is UNMETERED
            (await admission.admit(admission_request(2))).settle("finished")
        assert [used.request_id[-1] for used in account_fixture.usage if used.result == "finished"] == ["2"]
        account_fixture.assert_settled()


@pytest.mark.parametrize("damage", ["file", "journals"])
async def test_requests_are_served_although_recording_cannot_be_opened(tmp_path: Path, damage: str) -> None:
    journals = tmp_path / "journals"
    (tmp_path / "accounts.db").write_bytes(b"damaged!" * 1000)
    if damage == "journals":
        journals.touch()
    options = AccountsOptions(
        database=Database(f"sqlite:///{tmp_path}/accounts.db"), journals=journals, transport=LedgerThread
    )
    admission = UsageRecordingAdmission(options)
    with capture_logs() as logs:
        async with admission.opened():
            assert await admission.admit(admission_request(1)) is UNMETERED
            assert await admission.admit(admission_request(2)) is UNMETERED
    assert [log["event"] for log in logs] == ["usage_recording_disabled"]
