"""The ledger's operations and their answers. Amounts are in nano-units, times in milliseconds since 1970 (UTC).

None of them is part of a reference cycle, so the garbage collector does not track them (`gc=False`).
"""

from typing import Literal, Self

import msgspec

from dragoman.core.events import UsageSource
from dragoman.core.rate_limits import Allowance

SettlementResult = Literal["finished", "disconnected", "failed", "crashed"]
"""How a request ended. disconnected: its client left; crashed: its process died, and recovery settled it."""


class Admission(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="admission", kw_only=True):
    """May this request run? Token counts are totals over all its prompts and choices."""

    request_id: str
    """Up to 64 ASCII characters, never used before; core.identifiers.new_request_id makes one."""
    key_digest: str | None
    """None: the server is open; the request has no account and is only recorded."""
    model: str
    """The deployment's or adapter's own name, to which prices and permissions refer."""
    dialect: str
    prompt_tokens: int
    max_completion_tokens: int
    account: str | None = None
    """Number or name of the account that pays. None: the key's own account."""
    hold_cap: int | None = None
    """The most completion tokens that the hold covers. None: all of them, so that no charge exceeds its hold."""
    is_check: bool = False
    """Only check whether the key may send a request of any size now. Nothing is held or counted."""
    base_model: str | None = None
    """The model whose price holds if `model` is an adapter without a price of its own. None: it is no adapter."""
    fallback_models: tuple[str, ...] = ()
    """Deployments that may answer instead. The hold covers the dearest of those that the key may use."""


class Admitted(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="admitted", kw_only=True):
    """The request may run. Its maximum cost is held until it is settled."""

    request_id: str
    account_id: int | None
    key_id: int | None
    hold: int
    balance: int | None
    """Of the account, after the hold."""
    requests: Allowance | None = None
    """The key's limit of requests per minute, with this request counted. None: no limit."""
    tokens: Allowance | None = None
    fallback_models: tuple[str, ...] = ()
    """Those of the admission's that the key may use."""


class Settlement(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="settlement", kw_only=True):
    """The end of a request, with the tokens to charge.

    Finished or disconnected: all tokens that were generated until the engine stopped, forced ones too. Failed: the
    tokens that were delivered, and the prompt only if any were.
    """

    request_id: str
    prompt_tokens: int
    cached_tokens: int
    """The part of the prompt tokens that was not computed."""
    completion_tokens: int
    result: SettlementResult
    fallback: int = 0
    """Which of the admitted fallback models answered, counted from 1. 0: the model of the admission."""
    usage_source: UsageSource = "engine"
    """Who counted the tokens."""
    first_token_ms: int | None = None
    """Milliseconds from the admission to the first token. None: there was none, or nobody measured it."""
    attempts: str | None = None
    """JSON of the attempts at replicas, a list of [replica, outcome, began_ms, ended_ms]. None: one engine answered."""

    @classmethod
    def uncharged(cls, request_id: str, result: SettlementResult) -> Self:
        """Settle a request that delivered nothing."""
        return cls(request_id=request_id, prompt_tokens=0, cached_tokens=0, completion_tokens=0, result=result)


class Settled(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="settled"):
    """The request is settled, by this settlement or by an earlier one."""

    request_id: str
    charge: int
    result: SettlementResult
    repeated: bool = False
    """Whether an earlier settlement did it; this one changed nothing."""


class KeyLookup(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="inquiry"):
    """Look up a key and its account."""

    key_digest: str
    dialect: str | None
    """None: any dialect."""
    account: str | None = None
    counts: bool = False
    """Count a request that generates nothing towards the key's requests per minute. It is refused beyond them."""


class KeyInfo(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="key_facts", kw_only=True):
    """A key's account, and what the key may use now."""

    key_id: int
    account_id: int
    balance: int
    used: int
    """The part of the account's deposits that is charged, or held for running requests."""
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


class AccountLocked(Exception):
    """Another transaction has kept rows that the operation needs locked for too long. Nothing was done."""


LedgerOperation = Admission | Settlement | KeyLookup
LedgerAnswer = Admitted | Settled | KeyInfo
LedgerOutcome = LedgerAnswer | Exception
"""An answer, or the exception to raise to the caller."""
