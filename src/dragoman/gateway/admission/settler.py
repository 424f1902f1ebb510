"""Settlement in the background: no client waits for it, and the server's end does.

A client that has read the end of an answer may find it settled a moment later only; until then the journal has what is
to be paid.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from dragoman.accounts.ledger.operations import NeverAdmitted, Settled, Settlement
from dragoman.accounts.process.journal import JournalSlot
from dragoman.accounts.process.opening import LedgerResources
from dragoman.core.errors import Overloaded
from dragoman.core.rate_limits import Allowances
from dragoman.gateway.admission.controller import AdmissionRequest
from dragoman.gateway.admission.reservation import LedgerReservation
from dragoman.gateway.ledger_connection import LedgerConnection

_DRAIN_TIMEOUT_SECONDS = 5.0
"""How long the end waits for requests that were just cancelled."""

_ERRORS_AFTER_SETTLEMENT = (NeverAdmitted, OSError)
"""Recovery was quicker, because this process was frozen for long; or the disk failed after the commit."""

_log = structlog.get_logger(__name__)


class Settler:
    """Opens the reservations of one process and settles them."""

    def __init__(self, resources: LedgerResources) -> None:
        self._resources = resources
        self._unsettled = 0
        self._all_settled = asyncio.Event()

    def open(self, request: AdmissionRequest, allowances: Allowances) -> LedgerReservation:
        """Open the reservation of a request that the ledger has admitted.

        Raises Overloaded, and releases the hold, if the journal cannot be written.
        """
        request_id = request.caller.request_id
        self._unsettled += 1
        try:
            slot = self._resources.journal.open(request_id)
        except OSError as error:
            _log.error("journal_write_failed", error=error.strerror)
            self._settle(Settlement.uncharged(request_id, "failed"), None)
            raise Overloaded("The accounts' journal cannot be written", retry_after=5) from None
        return LedgerReservation(
            request_id=request_id,
            prompt_tokens=request.prompt_tokens,
            is_buffered=request.is_buffered,
            allowances=allowances,
            slot=slot,
            settle=self._settle,
        )

    async def drain(self) -> None:
        """Give requests that were just cancelled the time to end. Recovery settles what remains."""
        self._all_settled.clear()
        if self._unsettled:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_TIMEOUT_SECONDS):
                    await self._all_settled.wait()

    def _settle(self, settlement: Settlement, slot: JournalSlot | None) -> None:
        """Settle, and free the request's slot in the journal afterwards."""

        def on_settled(settled: "asyncio.Future[Settled]") -> None:
            error = settled.exception()
            if error is not None:
                _log.error("settlement_failed", request_id=settlement.request_id, error=str(error))
            # What is not settled stays in the journal, for recovery.
            if slot is not None and (error is None or isinstance(error, _ERRORS_AFTER_SETTLEMENT)):
                slot.close()
            self._unsettled -= 1
            if not self._unsettled:
                self._all_settled.set()

        self._resources.ledger.settle(settlement).add_done_callback(on_settled)


@contextlib.asynccontextmanager
async def open_settler(connection: LedgerConnection) -> AsyncIterator[Settler]:
    """Open the connection for the block, whose end waits for settlements. Raises what open_ledger raises."""
    async with connection.opened() as resources:
        settler = Settler(resources)
        try:
            yield settler
        finally:
            await settler.drain()
