"""What admitted requests have to pay: noted in the journal before it is delivered, and settled exactly once.

Settling waits for no client: it is owned by the Cashier, which the server's end waits for. Whoever is told of the end
of an answer may find it settled a moment later only; until then the journal knows what is to be paid.
"""

import asyncio
import contextlib

import structlog

from dragoman.accounts.journal import Slot
from dragoman.accounts.opening import Accounts
from dragoman.accounts.operations import NeverAdmitted, Settled, Settlement
from dragoman.core.allowance import Allowances
from dragoman.core.errors import Overloaded
from dragoman.core.events import Event, Finished, Usage
from dragoman.gateway.access import Ending, Order

_LAST_REQUESTS_SECONDS = 5.0
"""How long the end waits for requests that were just cancelled."""

_SETTLED_ALL_THE_SAME = (NeverAdmitted, OSError)
"""Recovery was quicker, because this process was frozen for long; or the disk failed after the commit."""

_log = structlog.get_logger(__name__)


class Cashier:
    """Opens the bills of one process and sees that they are paid."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._unpaid = 0
        self._all_paid = asyncio.Event()

    def bill(self, order: Order, allowances: Allowances) -> "AccountBill":
        """For a request that the ledger has admitted. Raises Overloaded, and frees the hold, if it cannot be noted."""
        request_id = order.caller.request_id
        self._unpaid += 1
        try:
            slot = self._accounts.journal.open(request_id)
        except OSError as error:
            _log.error("accounts_journal_full", error=error.strerror)
            self.pay(Settlement(request_id, 0, 0, 0, "failed"), None)
            raise Overloaded("The accounts' journal cannot be written", retry_after=5) from None
        return AccountBill(self, order, slot, allowances)

    def pay(self, settlement: Settlement, slot: Slot | None) -> None:
        """Settle, and free the request's place in the journal afterwards."""

        def paid(settled: "asyncio.Future[Settled]") -> None:
            error = settled.exception()
            if error is not None:
                _log.error("accounts_settlement_failed", request_id=settlement.request_id, error=str(error))
            # What is not settled stays in the journal, for recovery.
            if slot is not None and (error is None or isinstance(error, _SETTLED_ALL_THE_SAME)):
                slot.close()
            self._unpaid -= 1
            if not self._unpaid:
                self._all_paid.set()

        self._accounts.ledger.settle(settlement).add_done_callback(paid)

    async def wait_until_paid(self) -> None:
        """Give requests that were just cancelled the time to end; what is unpaid then is left to recovery."""
        self._all_paid.clear()
        if self._unpaid:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_REQUESTS_SECONDS):
                    await self._all_paid.wait()


class AccountBill:
    """Implements access.Bill."""

    def __init__(self, cashier: Cashier, order: Order, slot: Slot, allowances: Allowances) -> None:
        self.allowances = allowances
        self._cashier = cashier
        self._request_id = order.caller.request_id
        self._prompt_tokens = order.prompt_tokens
        self._delivered_at_once = order.delivered_at_once
        self._slot = slot
        self._generated = 0
        self._usage: Usage | None = None
        self._settled = False

    def observe(self, event: Event) -> None:
        match event:
            case Usage():
                self._usage = event
                self._slot.tokens(event.prompt_tokens, event.cached_tokens, event.completion_tokens)
            case Finished():
                pass
            case _ if event.token_ids:
                self._generated += len(event.token_ids)
                if not self._delivered_at_once:
                    self._slot.tokens(self._prompt_tokens, 0, self._generated)

    def settle(self, ending: Ending) -> None:
        if not self._settled:
            self._settled = True
            self._cashier.pay(self._settlement(ending), self._slot)

    def _settlement(self, ending: Ending) -> Settlement:
        usage = self._usage
        if usage is not None:
            counts = (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
        elif not self._generated or (ending == "failed" and self._delivered_at_once):
            counts = (0, 0, 0)
        else:
            counts = (self._prompt_tokens, 0, self._generated)
        return Settlement(self._request_id, *counts, ending)
