"""API keys of accounts, authenticated by the ledger."""

from collections import OrderedDict

from dragoman.accounts.ledger.operations import KeyInfo, KeyLookup
from dragoman.core.bounded_dicts import put_last
from dragoman.core.context import Caller, account_owner
from dragoman.core.errors import (
    BadRequest,
    DragomanError,
    InsufficientBalance,
    Limited,
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
"""Keys that are remembered to have been valid, and to have been refused."""


class AccountKeyAuthenticator:
    """Implements Authenticator while the connection is open."""

    needs_key = True

    def __init__(self, connection: LedgerConnection) -> None:
        self._connection = connection
        self._known_digests: OrderedDict[str, int | None] = OrderedDict()
        """Keys that were valid recently, and their accounts."""
        self._refused_digests: OrderedDict[str, None] = OrderedDict()
        """Keys whose last request was refused for want of balance or for a limit."""

    def owner_of_key(self, digest: str) -> str:
        """Return the owner of jobs that were submitted with a key of the settings, before there were accounts."""
        return owner_of_removed_key(digest)

    async def reject_unknown_key(self, caller: Caller, dialect: str | None) -> None:
        """Look up a key that was not valid recently; the ledger checks all others when they are used."""
        if required_digest(caller) not in self._known_digests:
            await self._look_up(caller, dialect)

    async def authenticate(self, caller: Caller, dialect: str | None) -> Principal:
        return _principal(await self._look_up(caller, dialect))

    def turn_owner(self, caller: Caller) -> str:
        if caller.account is not None:
            return f"selected {caller.account}"
        account_id = self._known_digests.get(caller.key_digest)
        return caller.key_digest if account_id is None else account_owner(account_id)

    async def check_access(self, caller: Caller, dialect: str) -> Principal:
        return _principal(_require_access(await self._look_up(caller, dialect)))

    async def count_request(self, caller: Caller, dialect: str) -> None:
        info = await self._look_up(caller, dialect, counts=True)
        _require_balance(info)

    def was_refused(self, caller: Caller) -> bool:
        """Whether the last request with the caller's key was refused for want of balance or for a limit."""
        return caller.key_digest in self._refused_digests

    def remember_admitted(self, caller: Caller, account_id: int | None) -> None:
        """Remember that a request of the caller was admitted, and who pays for it."""
        self._refused_digests.pop(caller.key_digest, None)
        self._remember(caller, account_id if caller.account is None else None)

    def _remember(self, caller: Caller, account_id: int | None) -> None:
        known = self._known_digests.get(caller.key_digest) if account_id is None else account_id
        put_last(self._known_digests, caller.key_digest, known, _MAX_KNOWN_KEYS)

    def in_client_terms(self, error: Exception, caller: Caller, model: str = "") -> Exception:
        """Return what the client sees of an error of the ledger, and remember that the key was refused.

        The ledger knows neither the key nor the name `model` that the client sent.
        """
        match error:
            case Unauthenticated():
                self._known_digests.pop(caller.key_digest, None)
                return error.with_key(caller.key or "")
            case ModelNotAllowed():
                return ModelNotFound(model)
            case InsufficientBalance() | Limited():
                put_last(self._refused_digests, caller.key_digest, None, _MAX_KNOWN_KEYS)
                return error
            case InvalidAmount():
                return BadRequest(str(error), "max_tokens")
            case _:
                return error

    async def _look_up(self, caller: Caller, dialect: str | None, *, counts: bool = False) -> KeyInfo:
        lookup = KeyLookup(required_digest(caller), dialect, caller.account, counts)
        try:
            info = await self._connection.resources.ledger.look_up_key(lookup)
        except DragomanError as error:
            raise self.in_client_terms(error, caller) from None
        self._remember(caller, info.account_id if caller.account is None else None)
        return info


def _require_access(info: KeyInfo) -> KeyInfo:
    """Return the key if it may send a request now. Raises InsufficientBalance or RateLimited."""
    _require_balance(info)
    if info.requests is not None and not info.requests.remaining:
        allowances = Allowances(info.requests, info.tokens)
        raise RateLimited("Limit of requests per minute reached", info.requests.resets_in, allowances)
    return info


def _require_balance(info: KeyInfo) -> None:
    # An account that has used nothing may be there for what costs nothing.
    if info.balance <= 0 < info.used:
        raise InsufficientBalance("Insufficient balance", limit=info.balance + info.used, used=info.used, hold=0)


def required_digest(caller: Caller) -> str:
    """Return the digest of the caller's key. Raises Unauthenticated if it sent none."""
    if not caller.key:
        raise Unauthenticated("missing")
    return caller.key_digest


def _principal(info: KeyInfo) -> Principal:
    models = None if info.models is None else frozenset(info.models)
    account = BillingAccount(info.account_id, info.balance)
    return Principal(f"key {info.key_id}", models, account, account_owner(info.account_id))
