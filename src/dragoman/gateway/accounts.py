"""Keys of accounts: every request is admitted by the ledger, in one transaction that decides everything."""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from dragoman.accounts.child import LedgerProcess
from dragoman.accounts.client import PATIENCE_SECONDS, LedgerClient
from dragoman.accounts.database import Database
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.money import InvalidAmount, formatted
from dragoman.accounts.opening import open_accounts
from dragoman.accounts.operations import Admission, Admitted, Inquiry, KeyFacts
from dragoman.accounts.refusals import BalanceTooLow, BudgetExceeded, KeyRefused, Refusal, TooManyRunning
from dragoman.accounts.transport import LedgerTransport
from dragoman.core.allowance import Allowances
from dragoman.core.errors import BadRequest, OutOfBalance, RateLimited, Unauthenticated
from dragoman.core.service import Caller
from dragoman.gateway.access import Bill, Order, Payer, Visitor
from dragoman.gateway.billing import Cashier
from dragoman.gateway.refusals import translated

_MOST_KNOWN = 10_000
"""Keys that are remembered to have been good."""


_HELD_FOR_OTHERS = (BalanceTooLow, BudgetExceeded, TooManyRunning)
"""Refusals that a request which has ended, and is about to be settled, may be the reason of."""

_SETTLING_SECONDS = 0.02


class AccountsOptions(NamedTuple):
    """Where the accounts are, and how they are used."""

    database: Database
    journals: Path
    """A folder on this machine, the same for all processes that use the database."""
    hold_cap: int | None = None
    """A hold covers at most so many completion tokens; None: all there may be."""
    patience_seconds: float = PATIENCE_SECONDS
    """How long a request waits for a database that does not answer."""
    transport: type[LedgerTransport] = LedgerProcess
    """Where the ledger works: in a process of its own, which has a core of its own, or in a thread of this one."""


@contextlib.asynccontextmanager
async def open_desk(options: AccountsOptions, process_id: int) -> AsyncIterator[tuple[LedgerClient, Cashier]]:
    """Where requests are admitted and paid; the end waits for what is being settled. Raises what open_accounts does.

    `process_id` is what others who use the database know this process by.
    """
    async with open_accounts(
        options.database,
        options.journals,
        process_id=process_id,
        patience_seconds=options.patience_seconds,
        transport=options.transport,
    ) as accounts:
        cashier = Cashier(accounts)
        try:
            yield accounts.ledger, cashier
        finally:
            await cashier.wait_until_paid()


class AccountAccess:
    """Implements access.Access, within `opened`."""

    needs_key = True
    meters = True

    def __init__(self, options: AccountsOptions) -> None:
        self.process_id = new_process_id()
        """What others who use the database know this process by, within `opened`."""
        self._options = options
        self._desk: tuple[LedgerClient, Cashier] | None = None
        self._known: OrderedDict[str, None] = OrderedDict()

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Until the end of the block, which waits for what is being settled. Raises what open_accounts does."""
        async with open_desk(self._options, self.process_id) as self._desk:
            yield

    async def recognize(self, caller: Caller, dialect: str | None) -> None:
        """Ask about a key that was not good a moment ago; about all others the ledger is asked when they are used."""
        if _digest(caller) not in self._known:
            await self._inquire(caller, dialect)

    async def identify(self, caller: Caller, dialect: str | None) -> Visitor:
        return _visitor(await self._inquire(caller, dialect))

    async def check(self, caller: Caller, dialect: str) -> Visitor:
        facts = await self._inquire(caller, dialect)
        # An account that has used nothing may be there for what costs nothing.
        if facts.balance <= 0 < facts.used:
            limit = formatted(facts.balance + facts.used)
            raise OutOfBalance("Insufficient balance", limit=limit, cost=formatted(facts.used))
        if facts.requests is not None and not facts.requests.remaining:
            allowances = Allowances(facts.requests, facts.tokens)
            raise RateLimited("Limit of requests per minute reached", facts.requests.resets_in, allowances)
        return _visitor(facts)

    async def admit(self, order: Order) -> Bill:
        ledger, cashier = self._open
        try:
            admitted = await _admitted(ledger, self.admission(order))
        except (Refusal, InvalidAmount) as error:
            raise self.refused(order, error) from None
        self._remember(_digest(order.caller))
        return cashier.bill(order, Allowances(admitted.requests, admitted.tokens))

    def admission(self, order: Order) -> Admission:
        caller = order.caller
        return Admission(
            caller.request_id,
            _digest(caller),
            order.own_name,
            order.dialect,
            order.prompt_tokens,
            order.most_completion_tokens,
            caller.account,
            self._options.hold_cap,
        )

    def refused(self, order: Order, error: Exception) -> Exception:
        match error:
            case Refusal():
                self._forget_refused(_digest(order.caller), error)
                return translated(error, order.caller, order.model)
            case InvalidAmount():
                return BadRequest(str(error), "max_tokens")
            case _:
                return error

    @property
    def _open(self) -> tuple[LedgerClient, Cashier]:
        assert self._desk is not None, "opened before the first request"
        return self._desk

    async def _inquire(self, caller: Caller, dialect: str | None) -> KeyFacts:
        digest = _digest(caller)
        try:
            facts = await self._open[0].inquire(Inquiry(digest, dialect, caller.account))
        except Refusal as refusal:
            self._forget_refused(digest, refusal)
            raise translated(refusal, caller) from None
        self._remember(digest)
        return facts

    def _remember(self, digest: str) -> None:
        self._known[digest] = None
        self._known.move_to_end(digest)
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)

    def _forget_refused(self, digest: str, refusal: Refusal) -> None:
        if isinstance(refusal, KeyRefused):
            self._known.pop(digest, None)


async def _admitted(ledger: LedgerClient, admission: Admission) -> Admitted:
    try:
        return await ledger.admit(admission)
    except _HELD_FOR_OTHERS:
        # Whoever has just read an answer may ask for the next one here while another process settles the last.
        await asyncio.sleep(_SETTLING_SECONDS)
        return await ledger.admit(admission)


def _digest(caller: Caller) -> str:
    if not caller.key:
        raise Unauthenticated("missing")
    return caller.key_digest


def _visitor(facts: KeyFacts) -> Visitor:
    models = None if facts.models is None else frozenset(facts.models)
    return Visitor(f"key {facts.key_id}", models, Payer(facts.account_id, facts.balance))
