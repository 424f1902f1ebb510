"""What the ledger is asked, and what it answers. Amounts are in nano-units, times in milliseconds since 1970 (UTC).

They refer to nothing that could refer back: the garbage collector need not look at them (`gc=False`).
"""

from typing import Literal

import msgspec

from dragoman.core.rate_limits import Allowance

SettlementResult = Literal["finished", "disconnected", "failed", "crashed"]
"""How a request ended. disconnected: its client went away; crashed: its process did, and recovery settled it."""


class Admission(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="admission"):
    """May this request run? Token counts are those of all its prompts and choices together."""

    request_id: str
    """Up to 64 ASCII characters, never used before; core.identifiers.new_request_id makes one."""
    key_digest: str | None
    """None: the server is open, the request belongs to nobody and is only recorded."""
    model: str
    """The deployment's or adapter's own name: prices and permissions go by it."""
    dialect: str
    prompt_tokens: int
    max_completion_tokens: int
    account: str | None = None
    """The account to pay, by its number or name; None: the key's own."""
    hold_cap: int | None = None
    """A hold covers at most so many completion tokens. None: all there may be, so that no charge exceeds its hold."""


class Admitted(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="admitted"):
    """The request may run; what it may cost is set aside until it is settled."""

    request_id: str
    account_id: int | None
    key_id: int | None
    hold: int
    balance: int | None
    """Of the account, after the hold."""
    requests: Allowance | None = None
    """The key's limits per minute with this request counted, where it has them."""
    tokens: Allowance | None = None


class Settlement(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="settlement"):
    """The request is over. The tokens are those to be paid.

    Finished or disconnected: all that were generated until the engine stopped, forced ones too. Failed: those that were
    delivered, and the prompt only if any were.
    """

    request_id: str
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt tokens, those that were not computed."""
    completion_tokens: int
    result: SettlementResult


class Settled(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="settled"):
    """The request is paid, by this settlement or by an earlier one."""

    request_id: str
    charge: int
    result: SettlementResult
    repeated: bool = False
    """Whether it had been settled before; nothing was changed then."""


class KeyLookup(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="inquiry"):
    """Who is this? Counts nothing."""

    key_digest: str
    dialect: str | None
    """None: whichever the key is for."""
    account: str | None = None


class KeyInfo(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="key_facts"):
    """Whose key it is, and what it may do now."""

    key_id: int
    account_id: int
    balance: int
    used: int
    """Of the account's deposits: charged, or held for running requests."""
    models: tuple[str, ...] | None
    """None: all."""
    requests: Allowance | None
    tokens: Allowance | None


class NeverAdmitted(Exception):
    """A settlement names a request that was never admitted."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"Request {request_id} was never admitted")
        self.request_id = request_id

    def __reduce__(self) -> "tuple[type[NeverAdmitted], tuple[str]]":
        return type(self), (self.request_id,)


class RequestIdTaken(Exception):
    """An admission names a request that was admitted before."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"Request id {request_id} was used before")
        self.request_id = request_id

    def __reduce__(self) -> "tuple[type[RequestIdTaken], tuple[str]]":
        return type(self), (self.request_id,)


LedgerOperation = Admission | Settlement | KeyLookup
LedgerAnswer = Admitted | Settled | KeyInfo
LedgerOutcome = LedgerAnswer | Exception
"""An answer, or what the one who asked is to have raised."""
