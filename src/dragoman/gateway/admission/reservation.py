"""Reservations: what an admitted request uses, noted before it is delivered, and settled exactly once."""

from collections.abc import Callable
from typing import Literal, Protocol

from dragoman.accounts.ledger.operations import Settlement
from dragoman.accounts.process.journal import JournalSlot
from dragoman.core.events import Usage
from dragoman.core.rate_limits import NO_LIMITS, Allowances

EndReason = Literal["finished", "disconnected", "failed"]
"""How a request ended. disconnected: its client went away."""


class Reservation(Protocol):
    """What an admitted request has to pay."""

    @property
    def allowances(self) -> Allowances:
        """What is left of the key's limits per minute."""
        ...

    def observe_tokens(self, generated_tokens: int) -> None:
        """Note how many tokens were generated so far, before the last of them leave the gateway."""
        ...

    def observe_usage(self, usage: Usage) -> None:
        """Note the usage at the end of the answer."""
        ...

    def settle(self, reason: EndReason) -> None:
        """Pay, on the first call. Never fails and never blocks."""
        ...


class UnmeteredReservation:
    """Implements Reservation for requests that cost nothing."""

    allowances = NO_LIMITS

    def observe_tokens(self, generated_tokens: int) -> None: ...

    def observe_usage(self, usage: Usage) -> None: ...

    def settle(self, reason: EndReason) -> None: ...


UNMETERED = UnmeteredReservation()


class LedgerReservation:
    """Implements Reservation with a slot of the journal, which recovery settles if this process dies."""

    def __init__(
        self,
        *,
        request_id: str,
        prompt_tokens: int,
        is_buffered: bool,
        allowances: Allowances,
        slot: JournalSlot,
        settle: Callable[[Settlement, JournalSlot], None],
    ) -> None:
        self.allowances = allowances
        self._request_id = request_id
        self._prompt_tokens = prompt_tokens
        self._is_buffered = is_buffered
        self._slot = slot
        self._settle = settle
        self._generated_tokens = 0
        self._usage: Usage | None = None
        self._is_settled = False

    def observe_tokens(self, generated_tokens: int) -> None:
        self._generated_tokens = generated_tokens
        if not self._is_buffered:
            self._slot.record(self._prompt_tokens, 0, generated_tokens)

    def observe_usage(self, usage: Usage) -> None:
        self._usage = usage
        self._slot.record(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)

    def settle(self, reason: EndReason) -> None:
        if not self._is_settled:
            self._is_settled = True
            self._settle(self._settlement(reason), self._slot)

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
