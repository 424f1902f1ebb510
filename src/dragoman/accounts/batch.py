"""Everything that one transaction reads, decides on and writes: a constant number of statements, however many requests.

The rows concerned are read and locked first. Decisions then change the states here, in the order in which the requests
arrived, so that the second sees what the first was given. At last what changed is written.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

import msgspec

from dragoman.accounts.database import Instant, Session
from dragoman.accounts.identifiers import QUEUE_PROCESS
from dragoman.accounts.ledger_statements import LedgerStatements
from dragoman.accounts.limits import WINDOW_SECONDS, Bucket, RateLimits, Window
from dragoman.accounts.money import checked
from dragoman.accounts.operations import Admitted
from dragoman.accounts.rows import HoldRow, KeyRow, MovementRow, PriceRow, UsageRow
from dragoman.accounts.statements import Statement

DAY_MILLISECONDS = 86_400_000

_LAST_SECOND = 2**63 - 1

_decode_names = msgspec.json.Decoder(tuple[str, ...]).decode


class AccountState(msgspec.Struct):
    """An account's totals as they are at this point of the transaction."""

    id: int
    balance: int
    holds: int
    charges: int
    changed: bool = False

    @property
    def used(self) -> int:
        """Paid or held of what was paid in."""
        return self.holds + self.charges


class KeyState(msgspec.Struct):
    """A key as it is at this point of the transaction."""

    row: KeyRow
    limits: RateLimits
    spent: int
    held: int
    running: int
    models: tuple[str, ...] | None
    dialects: tuple[str, ...] | None
    window: Window | None = None
    changed: bool = False


class Wanted(NamedTuple):
    """What a transaction is about."""

    settled: Collection[str]
    """Ids of requests that are over."""
    admitted: Collection[str]
    """Ids of requests that are to begin."""
    digests: Collection[str]
    """Of the keys of all who ask."""
    selecting: Collection[str]
    """Of the keys among them with which an account was selected."""


class Batch:
    """One transaction's states. `load` first, `store` last."""

    def __init__(self, session: Session, statements: LedgerStatements, process_id: int) -> None:
        self.process_id = process_id
        self.now = Instant(0, 0)
        self.holds: dict[str, HoldRow] = {}
        self.keys: dict[int, KeyState] = {}
        self.keys_by_digest: dict[str, KeyState] = {}
        self.accounts: dict[int, AccountState] = {}
        self.selectable: dict[int, list[tuple[int, str]]] = {}
        """For a key, the accounts it may use, as id and name; loaded only where one was selected."""
        self.prices: dict[str, PriceRow] = {}
        self.taken: set[str] = set()
        """Request ids that have been used, of those to be admitted."""
        self._session = session
        self._statements = statements
        self._new_holds: list[HoldRow] = []
        self._removed_holds: list[str] = []
        self._movements: list[MovementRow] = []
        self._usage: list[UsageRow] = []
        self._daily: dict[tuple[int, int, str, int], list[int]] = {}
        self._corrections: dict[tuple[int, int], int] = {}
        """For a key and a second, the tokens to add to what was counted then."""

    def load(self, wanted: Wanted, begin: Callable[[], None]) -> None:
        """Begin, read and lock all rows concerned, and then read the clock, all in one round trip.

        Whoever is given a row later is never given an earlier time.
        """
        session, statements, values = self._session, self._statements, self._session.values
        digests, selecting = values(wanted.digests), values(wanted.selecting)
        settled, admitted = values(wanted.settled), values(wanted.admitted)
        with session.pipeline():
            begin()
            held = session.ask(statements.holds_of, settled) if wanted.settled else _nothing
            keys = session.ask(statements.keys_of, digests, settled)
            accounts = session.ask(statements.accounts_of, settled, digests, selecting)
            now = session.ask_now()
            selectable = session.ask(statements.selectable_accounts, selecting) if wanted.selecting else _nothing
            taken = session.ask(statements.taken, admitted, admitted) if wanted.admitted else _nothing
        self.holds = {row[0]: HoldRow._make(row) for row in held()}
        for row in keys():
            key = _key_state(KeyRow._make(row))
            self.keys[key.row.id] = self.keys_by_digest[key.row.digest] = key
        self.accounts = {row[0]: AccountState(*row) for row in accounts()}
        self.now = now()
        for key_id, account_id, name in selectable():
            self.selectable.setdefault(key_id, []).append((account_id, name))
        self.taken = {request_id for (request_id,) in taken()}

    def load_limits(self, keys: Iterable[KeyState], models: Collection[str]) -> None:
        """Read the prices valid now, and what keys with limits per minute have used of them, after the settlements."""
        session, statements, values = self._session, self._statements, self._session.values
        limited = {key.row.id: key for key in keys if key.limits}
        if not limited and not models:
            return
        now = self.now
        since = now.second - WINDOW_SECONDS
        with session.pipeline():
            self._return_tokens()
            windows = session.ask(statements.windows, values(limited), since) if limited else _nothing
            prices = session.ask(statements.prices_of, values(models), now.wall, now.wall) if models else _nothing
        self.prices = {row[1]: PriceRow._make(row) for row in prices()}
        for key in limited.values():
            key.window = Window(now.second, now.second)
        for key_id, oldest, newest, requests, tokens in windows():
            limited[key_id].window = Window(now.second, min(oldest, now.second), newest, requests, tokens)
            if newest > now.second:
                self._renew_buckets(key_id, requests, tokens)

    def buckets(self, key: KeyState) -> list[Bucket]:
        """The key's window, oldest first, with what this transaction has added."""
        assert key.window is not None
        second = self.now.second
        stored = self._session.rows(self._statements.buckets, key.row.id, second - WINDOW_SECONDS)
        return [*stored, (second, key.window.new_requests, key.window.new_tokens)]

    def usage(self, request_ids: Collection[str]) -> dict[str, UsageRow]:
        """Those of the requests that are settled."""
        if not request_ids:
            return {}
        return {row[0]: UsageRow._make(row) for row in self._rows(self._statements.usage_of, request_ids)}

    def admitted_by_me(self, request_ids: Collection[str]) -> dict[str, Admitted]:
        """Those of the requests that run in this process's name, admitted by a transaction whose end nobody saw."""
        rows = map(HoldRow._make, self._rows(self._statements.holds_of, request_ids))
        return {
            row.request_id: Admitted(row.request_id, row.account_id, row.key_id, row.amount, None)
            for row in rows
            if row.process_id == self.process_id
        }

    def add_hold(self, hold: HoldRow) -> None:
        """Set money aside for a request that is admitted."""
        self._new_holds.append(hold)
        if hold.key_id is not None:
            key = self.keys[hold.key_id]
            key.held += hold.amount
            key.running += hold.process_id != QUEUE_PROCESS
            key.changed = True
        if hold.account_id is not None and hold.amount:
            account = self.accounts[hold.account_id]
            account.balance -= hold.amount
            account.holds = checked(account.holds + hold.amount)
            account.changed = True
            self._move(hold, "hold", -hold.amount, hold.amount, 0)

    def end_hold(self, hold: HoldRow, used: UsageRow) -> None:
        """Pay for a request and free what is left of its hold."""
        del self.holds[hold.request_id]
        self._removed_holds.append(hold.request_id)
        self._usage.append(used)
        self._add_daily(used)
        charge = used.charge
        if hold.key_id is not None:
            self._free_key(self.keys[hold.key_id], hold, used)
        if hold.account_id is not None and (hold.amount or charge):
            account = self.accounts[hold.account_id]
            account.balance = checked(account.balance + hold.amount - charge)
            account.holds -= hold.amount
            account.charges = checked(account.charges + charge)
            account.changed = True
            self._move(hold, "charge" if charge else "release", hold.amount - charge, -hold.amount, charge)

    def store(self) -> None:
        """Write what was decided."""
        session, statements = self._session, self._statements
        self._return_tokens()
        session.add(statements.add_holds, self._new_holds)
        session.add(statements.add_movements, self._movements)
        session.add(statements.add_usage, self._usage)
        session.write_many(statements.add_daily, [(*key, *sums) for key, sums in sorted(self._daily.items())])
        if self._removed_holds:
            session.write(statements.remove_holds, session.values(self._removed_holds))
        keys = [key for key in self.keys.values() if key.changed]
        session.write_many(statements.change_key, [(key.spent, key.held, key.running, key.row.id) for key in keys])
        accounts = [account for account in self.accounts.values() if account.changed]
        session.write_many(
            statements.change_account,
            [(account.balance, account.holds, account.charges, account.id) for account in accounts],
        )
        self._store_buckets(keys)

    def _return_tokens(self) -> None:
        """Give back what ended requests did not use of their keys' tokens per minute."""
        corrections = [(more, *bucket) for bucket, more in self._corrections.items()]
        self._corrections = {}
        self._session.write_many(self._statements.correct_bucket, corrections)

    def _store_buckets(self, keys: list[KeyState]) -> None:
        second = self.now.second
        counted = [(key.row.id, key.window) for key in keys if key.window is not None and key.window.new_requests]
        self._session.write_many(
            self._statements.add_bucket,
            [(key_id, second, window.new_requests, window.new_tokens) for key_id, window in counted],
        )
        begun = [key_id for key_id, window in counted if window.newest != second]
        self._session.write_many(
            self._statements.forget_buckets, [(key_id, second - WINDOW_SECONDS) for key_id in begun]
        )

    def _renew_buckets(self, key_id: int, requests: int, tokens: int) -> None:
        """The clock went back, as it does when the machine is started anew: what is in the window counts from now."""
        self._session.write(self._statements.forget_buckets, key_id, _LAST_SECOND)
        self._session.write_many(self._statements.add_bucket, [(key_id, self.now.second, requests, tokens)])

    def _free_key(self, key: KeyState, hold: HoldRow, used: UsageRow) -> None:
        key.spent = checked(key.spent + used.charge)
        key.held -= hold.amount
        key.running -= hold.process_id != QUEUE_PROCESS
        key.changed = True
        unused = used.prompt_tokens + used.completion_tokens - hold.counted_tokens
        if hold.counted_second is not None and unused:
            bucket = key.row.id, hold.counted_second
            self._corrections[bucket] = self._corrections.get(bucket, 0) + unused

    def _add_daily(self, used: UsageRow) -> None:
        day = used.settled_at // DAY_MILLISECONDS
        sums = self._daily.setdefault((used.account_id or 0, used.key_id or 0, used.model, day), [0, 0, 0, 0, 0])
        added = (1, used.prompt_tokens, used.cached_tokens, used.completion_tokens, used.charge)
        sums[:] = [before + more for before, more in zip(sums, added, strict=True)]

    def _move(self, hold: HoldRow, kind: str, balance: int, holds: int, charges: int) -> None:
        assert hold.account_id is not None
        row = MovementRow(hold.account_id, self.now.wall, kind, hold.request_id, 0, balance, holds, charges)
        self._movements.append(row)

    def _rows(self, statement: Statement, listed: Iterable[object]) -> list[tuple[Any, ...]]:
        return self._session.rows(statement, self._session.values(listed))


def _nothing() -> list[Any]:
    return []


def _key_state(row: KeyRow) -> KeyState:
    return KeyState(
        row,
        RateLimits(row.requests_per_minute, row.tokens_per_minute),
        row.spent,
        row.held,
        row.running,
        None if row.models is None else _decode_names(row.models),
        None if row.dialects is None else _decode_names(row.dialects),
    )
