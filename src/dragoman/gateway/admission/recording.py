"""Admission without accounts: every request is admitted and costs nothing; its usage may be recorded."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

from dragoman.accounts.database.failures import DatabaseUnavailable
from dragoman.accounts.database.migrations import DatabaseOutdated, DatabaseTooNew
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.ledger.operations import Admission
from dragoman.core import logs
from dragoman.core.context import Caller
from dragoman.core.errors import Overloaded
from dragoman.core.rate_limits import NO_LIMITS
from dragoman.gateway.admission.controller import AdmissionRequest
from dragoman.gateway.admission.reservation import UNMETERED, Reservation, Settler, open_settler
from dragoman.gateway.ledger_connection import AccountsOptions, LedgerConnection

MAX_UNRECORDED = 1_000

_log = logs.get_logger(__name__)


class UnmeteredAdmission:
    """Implements AdmissionController: nothing is recorded."""

    needs_token_counts = False
    connection: LedgerConnection | None = None
    """To the ledger that records usage. None: there is none."""

    def opened(self) -> AbstractAsyncContextManager[None]:
        """Requests may be admitted within the block."""
        return contextlib.nullcontext()

    def prepare(self, request: AdmissionRequest) -> Admission:
        return Admission(
            request_id=request.caller.request_id,
            key_digest=None,
            model=request.billed_model,
            base_model=request.base_model,
            dialect=request.dialect,
            prompt_tokens=0,
            max_completion_tokens=0,
            fallback_models=request.fallback_models,
        )

    def was_refused(self, caller: Caller) -> bool:  # noqa: ARG002
        return False

    async def check(self, request: AdmissionRequest) -> None:
        """Refuse nothing."""

    async def admit(self, request: AdmissionRequest) -> Reservation:  # noqa: ARG002
        return UNMETERED

    def in_client_terms(self, error: Exception, request: AdmissionRequest) -> Exception:  # noqa: ARG002
        return error


UNMETERED_ADMISSION = UnmeteredAdmission()


class UsageRecordingAdmission(UnmeteredAdmission):
    """Records the usage of every request. A request whose usage cannot be recorded is served all the same.

    If recording cannot be opened, nothing is recorded until the server is started again.
    """

    def __init__(self, options: AccountsOptions, *, max_unrecorded: int = MAX_UNRECORDED) -> None:
        """Requests wait for a ledger that is behind with more than `max_unrecorded` operations: it loses no records."""
        self._max_unrecorded = max_unrecorded
        self.connection: LedgerConnection = LedgerConnection(options, new_process_id())
        self._settler: Settler | None = None

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as opened:
            try:
                self._settler = await opened.enter_async_context(open_settler(self.connection))
            except (DatabaseUnavailable, DatabaseOutdated, DatabaseTooNew, OSError) as error:
                _log.warning("usage_recording_disabled", reason=str(error))
            yield

    async def admit(self, request: AdmissionRequest) -> Reservation:
        if self._settler is None:
            return UNMETERED
        ledger, admission = self._settler.ledger, self.prepare(request)
        try:
            # Nothing depends on the ledger's answer.
            recorded = ledger.begin_admission(admission) if ledger.pending_count < self._max_unrecorded else None
            if recorded is None:
                await ledger.admit(admission)
            return self._settler.open(
                request.caller.request_id,
                admitted=recorded,
                prompt_tokens=request.prompt_tokens,
                is_buffered=request.is_buffered,
                allowances=NO_LIMITS,
                fallback_models=request.fallback_models,
            )
        except Overloaded:  # The outage, or the failure of the journal, has a log line of its own.
            return UNMETERED
