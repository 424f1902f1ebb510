"""API keys of accounts, authenticated by the ledger."""

from collections import OrderedDict

from dragoman.accounts.ledger.operations import KeyInfo, KeyLookup
from dragoman.core.context import Caller, account_owner
from dragoman.core.errors import (
    BadRequest,
    DragomanError,
    InsufficientBalance,
    ModelNotAllowed,
    ModelNotFound,
    RateLimited,
    Unauthenticated,
)
from dragoman.core.money import InvalidAmount
from dragoman.core.rate_limits import Allowances
from dragoman.gateway.auth.authenticator import BillingAccount, Principal, owner_of_removed_key
from dragoman.gateway.ledger_connection import LedgerConnection

_MAX_KNOWN_KEYS = 10_000
"""Keys that are remembered to have been valid."""


class AccountKeyAuthenticator:
    """Implements Authenticator while the connection is open."""

    needs_key = True

    def __init__(self, connection: LedgerConnection) -> None:
        self._connection = connection
        self._known_digests: OrderedDict[str, None] = OrderedDict()

    def owner_of_key(self, digest: str) -> str:
        """Return the owner of jobs that were submitted with a key of the settings, before there were accounts."""
        return owner_of_removed_key(digest)

    async def reject_unknown_key(self, caller: Caller, dialect: str | None) -> None:
        """Look up a key that was not valid recently; the ledger checks all others when they are used."""
        if required_digest(caller) not in self._known_digests:
            await self._look_up(caller, dialect)

    async def authenticate(self, caller: Caller, dialect: str | None) -> Principal:
        return _principal(await self._look_up(caller, dialect))

    async def check_access(self, caller: Caller, dialect: str) -> Principal:
        info = await self._look_up(caller, dialect)
        # An account that has used nothing may be there for what costs nothing.
        if info.balance <= 0 < info.used:
            raise InsufficientBalance("Insufficient balance", limit=info.balance + info.used, used=info.used, hold=0)
        if info.requests is not None and not info.requests.remaining:
            allowances = Allowances(info.requests, info.tokens)
            raise RateLimited("Limit of requests per minute reached", info.requests.resets_in, allowances)
        return _principal(info)

    def remember(self, caller: Caller) -> None:
        """Remember that the caller's key is valid now."""
        digest = caller.key_digest
        self._known_digests[digest] = None
        self._known_digests.move_to_end(digest)
        if len(self._known_digests) > _MAX_KNOWN_KEYS:
            self._known_digests.popitem(last=False)

    def in_client_terms(self, error: Exception, caller: Caller, model: str = "") -> Exception:
        """Return what the client sees of an error of the ledger, and forget a key that was refused.

        The ledger knows neither the key nor the name `model` that the client sent.
        """
        match error:
            case Unauthenticated():
                self._known_digests.pop(caller.key_digest, None)
                return error.with_key(caller.key or "")
            case ModelNotAllowed():
                return ModelNotFound(model)
            case InvalidAmount():
                return BadRequest(str(error), "max_tokens")
            case _:
                return error

    async def _look_up(self, caller: Caller, dialect: str | None) -> KeyInfo:
        lookup = KeyLookup(required_digest(caller), dialect, caller.account)
        try:
            info = await self._connection.resources.ledger.look_up_key(lookup)
        except DragomanError as error:
            raise self.in_client_terms(error, caller) from None
        self.remember(caller)
        return info


def required_digest(caller: Caller) -> str:
    """Return the digest of the caller's key. Raises Unauthenticated if it sent none."""
    if not caller.key:
        raise Unauthenticated("missing")
    return caller.key_digest


def _principal(info: KeyInfo) -> Principal:
    models = None if info.models is None else frozenset(info.models)
    account = BillingAccount(info.account_id, info.balance)
    return Principal(f"key {info.key_id}", models, account, account_owner(info.account_id))
