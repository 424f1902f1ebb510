"""Authentication: from an API key to the principal that uses it."""

from typing import NamedTuple, Protocol

from dragoman.core.context import Caller, key_digest


class BillingAccount(NamedTuple):
    """The account that pays for a principal's requests."""

    account_id: int
    balance: int
    """What new requests may use, in nano-units."""


class Principal(NamedTuple):
    """An authenticated caller."""

    label: str
    """The key's label for people; empty if it has none."""
    models: frozenset[str] | None = None
    """The models and adapters that the key may use, by their canonical names; None: all."""
    billing_account: BillingAccount | None = None
    """None: requests are not billed."""
    owner: str = ""
    """Who owns the caller's adapters, as in GenerationRequest. Empty: the server has no keys, and every caller may do
    what its operator may."""

    def may_use(self, model: str) -> bool:
        """Whether the key may use this model."""
        return self.models is None or model in self.models


def owner_of_removed_key(digest: str) -> str:
    """Return the owner of jobs whose key is no longer known. It says neither the key nor its digest."""
    return f"removed key {key_digest(digest)[:16]}"


class Authenticator(Protocol):
    """Implemented by StaticKeyAuthenticator and AccountKeyAuthenticator. All methods raise core.errors.

    `dialect` is the one that the request came in; None accepts a key for any dialect.
    """

    @property
    def needs_key(self) -> bool:
        """Whether a request must bring a key."""
        ...

    def owner_of_key(self, digest: str) -> str:
        """Return whom requests with this key are computed for if no account pays for them."""
        ...

    def turn_owner(self, caller: Caller) -> str:
        """Return whose turn the work before the caller's admission takes: an account's, a key's or an address's."""
        ...

    async def reject_unknown_key(self, caller: Caller, dialect: str | None) -> None:
        """Reject unknown keys. A key that was valid recently passes without a lookup."""
        ...

    async def authenticate(self, caller: Caller, dialect: str | None) -> Principal:
        """Return the caller's principal."""
        ...

    async def check_access(self, caller: Caller, dialect: str) -> Principal:
        """Return the principal if it may send a request now: check balance and request rate too."""
        ...

    async def count_request(self, caller: Caller, dialect: str) -> None:
        """Count a request that generates nothing towards the key's limit. Raises what `check_access` raises."""
        ...
