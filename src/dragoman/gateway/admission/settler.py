"""What admitted requests have to pay: noted in the journal before it is delivered, and settled exactly once.

Settling waits for no client: it is owned by the Cashier, which the server's end waits for. Whoever is told of the end
of an answer may find it settled a moment later only; until then the journal knows what is to be paid.
"""

import asyncio
import contextlib

import structlog

from dragoman.accounts.ledger.operations import NeverAdmitted, Settled, Settlement
from dragoman.accounts.process.journal import JournalSlot
from dragoman.accounts.process.opening import LedgerResources
from dragoman.core.errors import Overloaded
from dragoman.core.events import Event, Finished, Usage
from dragoman.core.rate_limits import Allowances
from dragoman.gateway.admission.controller import AdmissionRequest, EndReason

_DRAIN_TIMEOUT_SECONDS = 5.0
"""How long the end waits for requests that were just cancelled."""

_ERRORS_AFTER_SETTLEMENT = (NeverAdmitted, OSError)
"""Recovery was quicker, because this process was frozen for long; or the disk failed after the commit."""

_log = structlog.get_logger(__name__)


class Settler:
    """Opens the bills of one process and sees that they are paid."""

    def __init__(self, accounts: LedgerResources) -> None:
        self._accounts = accounts
        self._unsettled = 0
        self._all_settled = asyncio.Event()

    def open(self, request: AdmissionRequest, allowances: Allowances) -> "LedgerReservation":
        """For a request that the ledger has admitted. Raises Overloaded, and frees the hold, if it cannot be noted."""
        request_id = request.caller.request_id
        self._unsettled += 1
        try:
            slot = self._accounts.journal.open(request_id)
        except OSError as error:
            _log.error("journal_write_failed", error=error.strerror)
            self.settle(Settlement.uncharged(request_id, "failed"), None)
            raise Overloaded("The accounts' journal cannot be written", retry_after=5) from None
        return LedgerReservation(self, request, slot, allowances)

    def settle(self, settlement: Settlement, slot: JournalSlot | None) -> None:
        """Settle, and free the request's place in the journal afterwards."""

        def paid(settled: "asyncio.Future[Settled]") -> None:
            error = settled.exception()
            if error is not None:
                _log.error("settlement_failed", request_id=settlement.request_id, error=str(error))
            # What is not settled stays in the journal, for recovery.
            if slot is not None and (error is None or isinstance(error, _ERRORS_AFTER_SETTLEMENT)):
                slot.close()
            self._unsettled -= 1
            if not self._unsettled:
                self._all_settled.set()

        self._accounts.ledger.settle(settlement).add_done_callback(paid)

    async def drain(self) -> None:
        """Give requests that were just cancelled the time to end; what is unpaid then is left to recovery."""
        self._all_settled.clear()
        if self._unsettled:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_TIMEOUT_SECONDS):
                    await self._all_settled.wait()


class LedgerReservation:
    """Implements access.Bill."""

    def __init__(self, settler: Settler, request: AdmissionRequest, slot: JournalSlot, allowances: Allowances) -> None:
        self.allowances = allowances
        self._settler = settler
        self._request_id = request.caller.request_id
        self._prompt_tokens = request.prompt_tokens
        self._is_buffered = request.is_buffered
        self._slot = slot
        self._generated_tokens = 0
        self._usage: Usage | None = None
        self._is_settled = False

    def observe(self, event: Event) -> None:
        match event:
            case Usage():
                self._usage = event
                self._slot.record(event.prompt_tokens, event.cached_tokens, event.completion_tokens)
            case Finished():
                pass
            case _ if event.token_ids:
                self._generated_tokens += len(event.token_ids)
                if not self._is_buffered:
                    self._slot.record(self._prompt_tokens, 0, self._generated_tokens)

    def settle(self, reason: EndReason) -> None:
        if not self._is_settled:
            self._is_settled = True
            self._settler.settle(self._settlement(reason), self._slot)

    def _settlement(self, reason: EndReason) -> Settlement:
        prompt, cached, completion = 0, 0, 0
        usage = self._usage
        if usage is not None:
            prompt, cached, completion = usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens
        elif self._generated_tokens and not (reason == "failed" and self._is_buffered):
            prompt, completion = self._prompt_tokens, self._generated_tokens
        return Settlement(
            request_id=self._request_id,
            prompt_tokens=prompt,
            cached_tokens=cached,
            completion_tokens=completion,
            result=reason,
        )
