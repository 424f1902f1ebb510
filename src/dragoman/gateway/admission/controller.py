"""Who may come in, and what becomes of the tokens they use: the seam between the gateway and keys or accounts."""

from typing import Literal, NamedTuple, Protocol

from dragoman.accounts.ledger.operations import Admission
from dragoman.core.events import Event
from dragoman.core.rate_limits import Allowances
from dragoman.core.service import Caller

EndReason = Literal["finished", "disconnected", "failed"]
"""How a request ended. disconnected: its client went away."""


class BillingAccount(NamedTuple):
    """The account that pays for somebody."""

    account_id: int
    balance: int
    """What new requests may use, in nano-units."""


class Principal(NamedTuple):
    """Somebody whose key is good."""

    label: str
    """What people call the key; empty if nobody gave it a name."""
    models: frozenset[str] | None = None
    """The models and adapters it may use, by their own names; None: all."""
    billing_account: BillingAccount | None = None
    """None: nothing is paid."""

    def may_use(self, model: str) -> bool:
        """Whether the key is for this model."""
        return self.models is None or model in self.models


class AdmissionRequest(NamedTuple):
    """A request that is to be admitted. Token counts are those of all its prompts and candidates together."""

    caller: Caller
    dialect: str
    model: str
    """The name the client asked for."""
    billed_model: str
    """The name that the model or adapter is charged under."""
    prompt_tokens: int
    max_completion_tokens: int
    is_buffered: bool
    """Whether nothing is delivered before everything is: then a request that fails has nothing to pay for."""


class Reservation(Protocol):
    """What an admitted request has to pay."""

    @property
    def allowances(self) -> Allowances:
        """What the key has left of its limits per minute."""
        ...

    def observe(self, event: Event) -> None:
        """Note what the engine generated, before it leaves the gateway."""
        ...

    def settle(self, reason: EndReason) -> None:
        """Pay, the first time it is called. Never fails and waits for nobody."""
        ...


class AccessController(Protocol):
    """Implemented by StaticKeyAuthenticator and AccountAccessController. All methods raise core.errors."""

    @property
    def needs_key(self) -> bool:
        """Whether a request must bring a key."""
        ...

    @property
    def needs_token_counts(self) -> bool:
        """Whether admission depends on token counts."""
        ...

    async def reject_unknown_key(self, caller: Caller, dialect: str | None) -> None:
        """Keep out whose key nobody has; one that was good a moment ago is let pass. None: whichever dialect."""
        ...

    async def authenticate(self, caller: Caller, dialect: str | None) -> Principal:
        """Who it is. None: whichever dialect the key is for."""
        ...

    async def check_access(self, caller: Caller, dialect: str) -> Principal:
        """Who it is, if they could ask for anything now: balance and request rate are looked at too."""
        ...

    async def admit(self, request: AdmissionRequest) -> Reservation:
        """Let a request run."""
        ...

    def build_admission(self, request: AdmissionRequest) -> Admission:
        """What the ledger is asked to let a request wait that others will run."""
        ...

    def translate_error(self, request: AdmissionRequest, error: Exception) -> Exception:
        """What the ledger answered to that, as core's error if it is a refusal."""
        ...
