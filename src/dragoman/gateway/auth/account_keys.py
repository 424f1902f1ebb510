"""Keys of accounts: every request is admitted by the ledger, in one transaction that decides everything."""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from dragoman.accounts.database.connections import Database
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.ledger.operations import Admission, Admitted, KeyInfo, KeyLookup
from dragoman.accounts.process.client import TIMEOUT_SECONDS, LedgerClient
from dragoman.accounts.process.handle import LedgerProcessHandle
from dragoman.accounts.process.opening import open_ledger
from dragoman.accounts.process.transport import LedgerTransport
from dragoman.core.errors import (
    BadRequest,
    BalanceTooLow,
    BudgetExceeded,
    DragomanError,
    InsufficientBalance,
    ModelNotAllowed,
    ModelNotFound,
    RateLimited,
    TooManyRunning,
    Unauthenticated,
)
from dragoman.core.money import InvalidAmount
from dragoman.core.rate_limits import Allowances
from dragoman.core.service import Caller
from dragoman.gateway.admission.controller import AdmissionRequest, BillingAccount, Principal, Reservation
from dragoman.gateway.admission.settler import Settler

_MAX_KNOWN_KEYS = 10_000
"""Keys that are remembered to have been good."""


_RETRIED_REFUSALS = (BalanceTooLow, BudgetExceeded, TooManyRunning)
"""Refusals that a request which has ended, and is about to be settled, may be the reason of."""

_RETRY_DELAY_SECONDS = 0.02


class AccountsOptions(NamedTuple):
    """Where the accounts are, and how they are used."""

    database: Database
    journals: Path
    """A folder on this machine, the same for all processes that use the database."""
    hold_cap: int | None = None
    """A hold covers at most so many completion tokens; None: all there may be."""
    timeout_seconds: float = TIMEOUT_SECONDS
    """How long a request waits for a database that does not answer."""
    transport: type[LedgerTransport] = LedgerProcessHandle
    """Where the ledger works: in a process of its own, which has a core of its own, or in a thread of this one."""


@contextlib.asynccontextmanager
async def open_accounting(options: AccountsOptions, process_id: int) -> AsyncIterator[tuple[LedgerClient, Settler]]:
    """Where requests are admitted and paid; the end waits for what is being settled. Raises what open_ledger does.

    `process_id` is what others who use the database know this process by.
    """
    async with open_ledger(
        options.database,
        options.journals,
        process_id=process_id,
        timeout_seconds=options.timeout_seconds,
        transport=options.transport,
    ) as accounts:
        settler = Settler(accounts)
        try:
            yield accounts.ledger, settler
        finally:
            await settler.drain()


class AccountAccessController:
    """Implements access.Access, within `opened`."""

    needs_key = True
    needs_token_counts = True

    def __init__(self, options: AccountsOptions) -> None:
        self.process_id = new_process_id()
        """What others who use the database know this process by, within `opened`."""
        self._options = options
        self._accounting: tuple[LedgerClient, Settler] | None = None
        self._known_digests: OrderedDict[str, None] = OrderedDict()

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Until the end of the block, which waits for what is being settled. Raises what open_ledger does."""
        async with open_accounting(self._options, self.process_id) as self._accounting:
            yield

    async def reject_unknown_key(self, caller: Caller, dialect: str | None) -> None:
        """Ask about a key that was not good a moment ago; about all others the ledger is asked when they are used."""
        if _required_digest(caller) not in self._known_digests:
            await self._inquire(caller, dialect)

    async def authenticate(self, caller: Caller, dialect: str | None) -> Principal:
        return _principal(await self._inquire(caller, dialect))

    async def check_access(self, caller: Caller, dialect: str) -> Principal:
        facts = await self._inquire(caller, dialect)
        # An account that has used nothing may be there for what costs nothing.
        if facts.balance <= 0 < facts.used:
            limit = facts.balance + facts.used
            raise InsufficientBalance("Insufficient balance", limit=limit, used=facts.used, hold=0)
        if facts.requests is not None and not facts.requests.remaining:
            allowances = Allowances(facts.requests, facts.tokens)
            raise RateLimited("Limit of requests per minute reached", facts.requests.resets_in, allowances)
        return _principal(facts)

    async def admit(self, request: AdmissionRequest) -> Reservation:
        ledger, settler = self._open_accounting
        try:
            admitted = await _admit_with_retry(ledger, self.build_admission(request))
        except (DragomanError, InvalidAmount) as error:
            raise self.translate_error(request, error) from None
        self._remember(_required_digest(request.caller))
        return settler.open(request, Allowances(admitted.requests, admitted.tokens))

    def build_admission(self, request: AdmissionRequest) -> Admission:
        caller = request.caller
        return Admission(
            request_id=caller.request_id,
            key_digest=_required_digest(caller),
            model=request.billed_model,
            dialect=request.dialect,
            prompt_tokens=request.prompt_tokens,
            max_completion_tokens=request.max_completion_tokens,
            account=caller.account,
            hold_cap=self._options.hold_cap,
        )

    def translate_error(self, request: AdmissionRequest, error: Exception) -> Exception:
        match error:
            case DragomanError():
                return self._in_client_terms(error, request.caller, request.model)
            case InvalidAmount():
                return BadRequest(str(error), "max_tokens")
            case _:
                return error

    @property
    def _open_accounting(self) -> tuple[LedgerClient, Settler]:
        assert self._accounting is not None, "opened before the first request"
        return self._accounting

    async def _inquire(self, caller: Caller, dialect: str | None) -> KeyInfo:
        digest = _required_digest(caller)
        try:
            facts = await self._open_accounting[0].look_up_key(KeyLookup(digest, dialect, caller.account))
        except DragomanError as refusal:
            raise self._in_client_terms(refusal, caller) from None
        self._remember(digest)
        return facts

    def _remember(self, digest: str) -> None:
        self._known_digests[digest] = None
        self._known_digests.move_to_end(digest)
        if len(self._known_digests) > _MAX_KNOWN_KEYS:
            self._known_digests.popitem(last=False)

    def _in_client_terms(self, refusal: DragomanError, caller: Caller, model: str = "") -> DragomanError:
        """Add to an error of the ledger what only the caller knows: the key, and the name `model` that was sent."""
        match refusal:
            case Unauthenticated():
                self._known_digests.pop(caller.key_digest, None)
                return refusal.with_key(caller.key or "")
            case ModelNotAllowed():
                return ModelNotFound(model)
            case _:
                return refusal


async def _admit_with_retry(ledger: LedgerClient, admission: Admission) -> Admitted:
    try:
        return await ledger.admit(admission)
    except _RETRIED_REFUSALS:
        # Whoever has just read an answer may ask for the next one here while another process settles the last.
        await asyncio.sleep(_RETRY_DELAY_SECONDS)
        return await ledger.admit(admission)


def _required_digest(caller: Caller) -> str:
    if not caller.key:
        raise Unauthenticated("missing")
    return caller.key_digest


def _principal(facts: KeyInfo) -> Principal:
    models = None if facts.models is None else frozenset(facts.models)
    return Principal(f"key {facts.key_id}", models, BillingAccount(facts.account_id, facts.balance))
