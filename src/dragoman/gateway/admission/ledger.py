"""Admission by the ledger: one transaction checks the key, balance and limits, and holds the maximum cost."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from dragoman.accounts.ledger.operations import Admission, Admitted
from dragoman.core.context import Caller
from dragoman.core.errors import BalanceTooLow, BudgetExceeded, DragomanError, TooManyRunning
from dragoman.core.money import InvalidAmount
from dragoman.core.rate_limits import Allowances
from dragoman.gateway.admission.controller import AdmissionRequest
from dragoman.gateway.admission.reservation import Reservation, Settler, open_settler
from dragoman.gateway.auth.account_keys import AccountKeyAuthenticator, required_digest
from dragoman.gateway.ledger_connection import LedgerConnection

_RETRIED_ERRORS = (BalanceTooLow, BudgetExceeded, TooManyRunning)
"""Errors that may be caused by a request which has ended and is about to be settled."""

_RETRY_DELAY_SECONDS = 0.02


class LedgerAdmission:
    """Implements AdmissionController, within `opened`."""

    needs_token_counts = True

    def __init__(self, connection: LedgerConnection, authenticator: AccountKeyAuthenticator) -> None:
        self.connection = connection
        self._authenticator = authenticator
        self._settler: Settler | None = None

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Open the connection for the block, whose end waits for settlements. Raises what open_ledger raises."""
        async with open_settler(self.connection) as self._settler:
            yield

    def prepare(self, request: AdmissionRequest) -> Admission:
        caller = request.caller
        return Admission(
            request_id=caller.request_id,
            key_digest=required_digest(caller),
            model=request.billed_model,
            base_model=request.base_model,
            dialect=request.dialect,
            prompt_tokens=request.prompt_tokens,
            max_completion_tokens=request.max_completion_tokens,
            account=caller.account,
            hold_cap=self.connection.hold_cap,
            fallback_models=request.fallback_models,
        )

    def was_refused(self, caller: Caller) -> bool:
        return self._authenticator.was_refused(caller)

    async def check(self, request: AdmissionRequest) -> None:
        assert self._settler is not None, "opened before the first request"
        admission = msgspec.structs.replace(self.prepare(request), is_check=True)
        try:
            await _with_retry(self._settler.ledger.check, admission)
        except (DragomanError, InvalidAmount) as error:
            raise self.in_client_terms(error, request) from None

    async def admit(self, request: AdmissionRequest) -> Reservation:
        assert self._settler is not None, "opened before the first request"
        admission = self.prepare(request)
        try:
            admitted = await _with_retry(self._settler.ledger.admit, admission)
        except (DragomanError, InvalidAmount) as error:
            raise self.in_client_terms(error, request) from None
        self._authenticator.remember_admitted(request.caller, admitted.account_id)
        return self._settler.open(
            request.caller.request_id,
            account_id=admitted.account_id,
            prompt_tokens=request.prompt_tokens,
            is_buffered=request.is_buffered,
            allowances=Allowances(admitted.requests, admitted.tokens),
            fallback_models=admitted.fallback_models,
        )

    def in_client_terms(self, error: Exception, request: AdmissionRequest) -> Exception:
        return self._authenticator.in_client_terms(error, request.caller, request.model)


async def _with_retry(decide: Callable[[Admission], Awaitable[Admitted]], admission: Admission) -> Admitted:
    try:
        return await decide(admission)
    except _RETRIED_ERRORS:
        # A client that has just read an answer may send its next request here while another process settles the last.
        await asyncio.sleep(_RETRY_DELAY_SECONDS)
        return await decide(admission)
