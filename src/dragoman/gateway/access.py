"""Who may come in, and what becomes of the tokens they use: the seam between the gateway and keys or accounts."""

from typing import Literal, NamedTuple, Protocol

from dragoman.accounts.operations import Admission
from dragoman.core.allowance import Allowances
from dragoman.core.events import Event
from dragoman.core.service import Caller

Ending = Literal["finished", "disconnected", "failed"]
"""How a request ended. disconnected: its client went away."""


class Payer(NamedTuple):
    """The account that pays for somebody."""

    account_id: int
    balance: int
    """What new requests may use, in nano-units."""


class Visitor(NamedTuple):
    """Somebody whose key is good."""

    label: str
    """What people call the key; empty if nobody gave it a name."""
    models: frozenset[str] | None = None
    """The models and adapters it may use, by their own names; None: all."""
    payer: Payer | None = None
    """None: nothing is paid."""

    def may_use(self, model: str) -> bool:
        """Whether the key is for this model."""
        return self.models is None or model in self.models


class Order(NamedTuple):
    """A request that is to be admitted. Token counts are those of all its prompts and candidates together."""

    caller: Caller
    dialect: str
    model: str
    """The name the client asked for."""
    own_name: str
    """The name that the model or adapter is charged under."""
    prompt_tokens: int
    most_completion_tokens: int
    delivered_at_once: bool
    """Whether nothing is delivered before everything is: then a request that fails has nothing to pay for."""


class Bill(Protocol):
    """What an admitted request has to pay."""

    @property
    def allowances(self) -> Allowances:
        """What the key has left of its limits per minute."""
        ...

    def observe(self, event: Event) -> None:
        """Note what the engine generated, before it leaves the gateway."""
        ...

    def settle(self, ending: Ending) -> None:
        """Pay, the first time it is called. Never fails and waits for nobody."""
        ...


class Access(Protocol):
    """Implemented by keys.KeyRing and accounts.AccountAccess. Everything raises core.errors."""

    @property
    def needs_key(self) -> bool:
        """Whether a request must bring a key."""
        ...

    @property
    def meters(self) -> bool:
        """Whether admission depends on token counts."""
        ...

    async def recognize(self, caller: Caller, dialect: str | None) -> None:
        """Keep out whose key nobody has; one that was good a moment ago is let pass. None: whichever dialect."""
        ...

    async def identify(self, caller: Caller, dialect: str | None) -> Visitor:
        """Who it is. None: whichever dialect the key is for."""
        ...

    async def check(self, caller: Caller, dialect: str) -> Visitor:
        """Who it is, if they could ask for anything now: balance and request rate are looked at too."""
        ...

    async def admit(self, order: Order) -> Bill:
        """Let a request run."""
        ...

    def admission(self, order: Order) -> Admission:
        """What the ledger is asked to let a request wait that others will run."""
        ...

    def refused(self, order: Order, error: Exception) -> Exception:
        """What the ledger answered to that, as core's error if it is a refusal."""
        ...
