"""Reservations of admitted requests, and their settlement in the background.

No client waits for a settlement; the end of the server does. A client that has read the end of an answer may find it
settled a moment later only. Until then the journal has what is to be charged.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Callable
from typing import Literal, Protocol

from dragoman.accounts.ledger.attempts import MAX_ATTEMPTS, encode_attempts
from dragoman.accounts.ledger.operations import Admitted, NeverAdmitted, Settled, Settlement
from dragoman.accounts.process.journal import JournalSlot
from dragoman.accounts.process.opening import LedgerResources
from dragoman.core import logs
from dragoman.core.answered_by import AnsweredBy, FailedAttempt
from dragoman.core.errors import LedgerUnavailable, Overloaded
from dragoman.core.events import Usage, UsageSource
from dragoman.core.rate_limits import NO_LIMITS, Allowances
from dragoman.gateway.ledger_connection import LedgerConnection

EndReason = Literal["finished", "disconnected", "failed"]
"""How a request ended. disconnected: its client went away."""


class Reservation(Protocol):
    """What an admitted request has to pay."""

    @property
    def account_id(self) -> int | None:
        """The account that pays; None: none does."""
        ...

    @property
    def allowances(self) -> Allowances:
        """What is left of the key's limits per minute."""
        ...

    def observe_start(self, cached_tokens: int) -> None:
        """Note how many tokens of a prompt were cached, before the answer's first token. Called for each prompt."""
        ...

    def observe_tokens(self, generated_tokens: int) -> None:
        """Note how many tokens were generated so far, before the last of them leave the gateway."""
        ...

    def observe_usage(self, usage: Usage) -> None:
        """Note the usage at the end of the answer."""
        ...

    def observe_upstream(self) -> None:
        """Note that another server answers, and counts its tokens itself."""
        ...

    def observe_attempt(self, attempt: AnsweredBy | FailedAttempt) -> None:
        """Note an attempt that has failed, or that answers."""
        ...

    def may_fall_back(self, model: str) -> bool:
        """Whether the model was admitted as a fallback."""
        ...

    def fall_back(self, model: str) -> None:
        """Pay at the prices of this fallback, from before its first token on."""
        ...

    def settle(self, reason: EndReason) -> "asyncio.Future[Settled] | None":
        """Pay, on the first call, and return when that is done. Never fails and never blocks.

        None: there is nothing to pay, it was paid before, or its admission is not recorded yet. The future is that of
        the first try.
        """
        ...


class UnmeteredReservation:
    """Implements Reservation for requests that cost nothing."""

    account_id: int | None = None
    allowances = NO_LIMITS

    def observe_start(self, cached_tokens: int) -> None: ...

    def observe_tokens(self, generated_tokens: int) -> None: ...

    def observe_usage(self, usage: Usage) -> None: ...

    def observe_upstream(self) -> None: ...

    def observe_attempt(self, attempt: AnsweredBy | FailedAttempt) -> None: ...

    def may_fall_back(self, model: str) -> bool:  # noqa: ARG002
        return True

    def fall_back(self, model: str) -> None: ...

    def settle(self, reason: EndReason) -> None: ...


UNMETERED = UnmeteredReservation()


class LedgerReservation:
    """Implements Reservation with a slot of the journal, which recovery settles if this process dies."""

    def __init__(
        self,
        *,
        request_id: str,
        account_id: int | None,
        prompt_tokens: int,
        is_buffered: bool,
        allowances: Allowances,
        fallback_models: tuple[str, ...],
        slot: JournalSlot,
        settle: Callable[[Settlement, JournalSlot | None], "asyncio.Future[Settled] | None"],
    ) -> None:
        self.account_id = account_id
        self.allowances = allowances
        self._request_id = request_id
        self._prompt_tokens = prompt_tokens
        self._is_buffered = is_buffered
        self._fallback_models = fallback_models
        self._fallback = 0
        self._counts_itself = True
        self._slot = slot
        self._settle = settle
        self._cached_tokens = 0
        self._generated_tokens = 0
        self._opened_at = time.monotonic()
        self._first_token_ms: int | None = None
        self._attempts: tuple[AnsweredBy | FailedAttempt, ...] = ()
        self._usage: Usage | None = None
        self._is_settled = False

    def observe_start(self, cached_tokens: int) -> None:
        # An upstream counts its prompt itself, and may count more than was admitted.
        self._cached_tokens = min(self._cached_tokens + cached_tokens, self._prompt_tokens)

    def observe_tokens(self, generated_tokens: int) -> None:
        self._generated_tokens = generated_tokens
        if self._first_token_ms is None:
            self._first_token_ms = round((time.monotonic() - self._opened_at) * 1000)
        if not self._is_buffered:
            self._slot.record(self._prompt_tokens, self._cached_tokens, generated_tokens)

    def observe_usage(self, usage: Usage) -> None:
        self._usage = usage
        self._slot.record(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)

    def observe_upstream(self) -> None:
        self._counts_itself = False

    def observe_attempt(self, attempt: AnsweredBy | FailedAttempt) -> None:
        if len(self._attempts) < MAX_ATTEMPTS:
            self._attempts = (*self._attempts, attempt)

    def may_fall_back(self, model: str) -> bool:
        return model in self._fallback_models

    def fall_back(self, model: str) -> None:
        self._cached_tokens = 0
        self._fallback = self._fallback_models.index(model) + 1
        self._slot.record_fallback(self._fallback)

    def settle(self, reason: EndReason) -> "asyncio.Future[Settled] | None":
        if self._is_settled:
            return None
        self._is_settled = True
        return self._settle(self._settlement(reason), self._slot)

    def _attempted(self, reason: EndReason) -> str | None:
        if not self._attempts:
            return None
        return encode_attempts(self._attempts, reason, self._opened_at, time.monotonic())

    def _settlement(self, reason: EndReason) -> Settlement:
        prompt, cached, completion = 0, 0, 0
        usage = self._usage
        source: UsageSource = "engine" if self._counts_itself else "partial"
        if usage is not None:
            source = usage.source
            prompt, cached, completion = usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens
        elif self._generated_tokens and not (reason == "failed" and self._is_buffered):
            prompt, cached, completion = self._prompt_tokens, self._cached_tokens, self._generated_tokens
        return Settlement(
            request_id=self._request_id,
            prompt_tokens=prompt,
            cached_tokens=cached,
            completion_tokens=completion,
            result=reason,
            fallback=self._fallback,
            usage_source=source,
            first_token_ms=self._first_token_ms,
            attempts=self._attempted(reason),
        )


_DRAIN_TIMEOUT_SECONDS = 5.0
"""How long the end waits for requests that were just cancelled."""

_ERRORS_AFTER_SETTLEMENT = (NeverAdmitted, OSError)
"""Recovery was quicker, because this process was frozen for long; or the disk failed after the commit."""

_FINAL_ERRORS = (*_ERRORS_AFTER_SETTLEMENT, LedgerUnavailable)
"""The client was closed; while it is open, it retries settlements itself until the database answers."""

_MIN_RETRY_SECONDS, _MAX_RETRY_SECONDS = 1.0, 60.0
_MAX_RETRYING = 10_000
"""Settlements kept for a retry. Further ones are left to the journal."""

_log = logs.get_logger(__name__)


class Settler:
    """Opens the reservations of one process and settles them."""

    def __init__(self, resources: LedgerResources, *, min_retry_seconds: float = _MIN_RETRY_SECONDS) -> None:
        """A settlement that fails is repeated after `min_retry_seconds`, and then after ever longer pauses."""
        self.ledger = resources.ledger
        self._journal = resources.journal
        self._min_retry_seconds = min_retry_seconds
        self._unsettled = 0
        self._retrying = 0
        self._is_draining = False
        self._all_settled = asyncio.Event()

    def open(
        self,
        request_id: str,
        *,
        account_id: int | None = None,
        prompt_tokens: int,
        is_buffered: bool,
        allowances: Allowances,
        fallback_models: tuple[str, ...] = (),
        admitted: "asyncio.Future[Admitted] | None" = None,
    ) -> LedgerReservation:
        """Open the reservation of a request that the ledger has admitted, or is about to admit if there is `admitted`.

        Raises Overloaded, and releases the hold, if the journal cannot be written.
        """
        self._unsettled += 1
        settle = self._settle if admitted is None else functools.partial(self._settle_admitted, admitted)
        try:
            slot = self._journal.open(request_id)
        except OSError as error:
            _log.error("journal_write_failed", error=error.strerror)
            settle(Settlement.uncharged(request_id, "failed"), None)
            raise Overloaded("The accounts' journal cannot be written", retry_after=5) from None
        return LedgerReservation(
            request_id=request_id,
            account_id=account_id,
            prompt_tokens=prompt_tokens,
            is_buffered=is_buffered,
            allowances=allowances,
            fallback_models=fallback_models,
            slot=slot,
            settle=settle,
        )

    async def drain(self) -> None:
        """Give requests that were just cancelled the time to end. Recovery settles what remains."""
        self._is_draining = True
        self._all_settled.clear()
        if self._unsettled:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_TIMEOUT_SECONDS):
                    await self._all_settled.wait()

    def _settle_admitted(
        self, admitted: "asyncio.Future[Admitted]", settlement: Settlement, slot: JournalSlot | None
    ) -> "asyncio.Future[Settled] | None":
        """Settle once the ledger has admitted the request. One that it cannot admit is not recorded."""

        def settle(_admitted: object = None) -> "asyncio.Future[Settled] | None":
            if admitted.exception() is None:
                return self._settle(settlement, slot, is_paid=False)
            if slot is not None:
                slot.close()
            self._count_down()
            return None

        if admitted.done():
            return settle()
        admitted.add_done_callback(settle)
        return None

    def _settle(
        self, settlement: Settlement, slot: JournalSlot | None, attempt: int = 1, *, is_paid: bool = True
    ) -> "asyncio.Future[Settled]":
        """Settle, however often it takes, and free the request's slot in the journal afterwards.

        An unexpected error, such as one in a row that was changed by hand, may be gone later.
        """

        def on_settled(settled: "asyncio.Future[Settled]") -> None:
            error = settled.exception()
            if error is not None and attempt == 1:
                _log.error("settlement_failed", request_id=settlement.request_id, error=str(error))
            is_final = error is None or isinstance(error, _FINAL_ERRORS)
            if not is_final and not self._is_draining and self._retrying < _MAX_RETRYING:
                self._retry(settlement, slot, attempt)
                return
            # What is not settled stays in the journal, for recovery.
            if slot is not None and (error is None or isinstance(error, _ERRORS_AFTER_SETTLEMENT)):
                slot.close()
            self._count_down()

        settled = self.ledger.settle(settlement, is_paid=is_paid)
        settled.add_done_callback(on_settled)
        return settled

    def _retry(self, settlement: Settlement, slot: JournalSlot | None, attempt: int) -> None:
        def settle_again() -> None:
            if not self._is_draining:
                self._retrying -= 1
                self._unsettled += 1
                self._settle(settlement, slot, attempt + 1)

        self._retrying += 1
        self._count_down()
        delay = min(_MAX_RETRY_SECONDS, self._min_retry_seconds * 2 ** (attempt - 1))
        asyncio.get_running_loop().call_later(delay, settle_again)

    def _count_down(self) -> None:
        self._unsettled -= 1
        if not self._unsettled:
            self._all_settled.set()


@contextlib.asynccontextmanager
async def open_settler(connection: LedgerConnection) -> AsyncIterator[Settler]:
    """Open the connection for the block, whose end waits for settlements. Raises what open_ledger raises."""
    async with connection.opened() as resources:
        settler = Settler(resources)
        try:
            yield settler
        finally:
            await settler.drain()
