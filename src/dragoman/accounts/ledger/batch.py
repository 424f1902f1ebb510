"""Everything that one transaction reads, decides and writes, in a constant number of statements for any number of
requests.

The transaction first reads and locks the rows. Decisions then change the states here, in the order in which the
requests arrived, so that the second request sees what the first was given. Finally the changes are written.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import msgspec

from dragoman.accounts.database.sessions import Instant, Session
from dragoman.accounts.database.statements import Statement
from dragoman.accounts.database.tables import FIRST_TOKEN_BOUNDS_MS, FIRST_TOKEN_CLASSES
from dragoman.accounts.identifiers import QUEUE_PROCESS_ID
from dragoman.accounts.ledger.ledger_statements import LedgerStatements
from dragoman.accounts.ledger.operations import Admitted
from dragoman.accounts.ledger.rate_limits import WINDOW_SECONDS, Bucket, RateLimits, RateWindow
from dragoman.accounts.ledger.rows import HoldRow, KeyRow, MovementRow, PriceRow, UsageRow
from dragoman.accounts.times import DAY_MILLISECONDS, HOUR_MILLISECONDS
from dragoman.core.money import check_amount

_MAX_SECOND = 2**63 - 1

_ERRORS = frozenset({"failed", "crashed"})
"""Results that count as errors in the sums of usage."""

_DAILY_SUMS = 6
_HOURLY_SUMS = _DAILY_SUMS + len(FIRST_TOKEN_CLASSES)

_decode_names = msgspec.json.Decoder(tuple[str, ...]).decode


class AccountState(msgspec.Struct, kw_only=True):
    """An account's totals at this point of the transaction."""

    id: int
    balance: int
    holds: int
    charges: int
    changed: bool = False

    @property
    def used(self) -> int:
        """The part of the deposits that is charged or held."""
        return self.holds + self.charges


class ApiKeyState(msgspec.Struct, kw_only=True):
    """A key at this point of the transaction."""

    row: KeyRow
    limits: RateLimits
    spent: int
    held: int
    running: int
    models: tuple[str, ...] | None
    dialects: tuple[str, ...] | None
    window: RateWindow | None = None
    changed: bool = False


class BatchScope(NamedTuple):
    """The requests and keys of a transaction."""

    settled_ids: Collection[str]
    """Ids of the requests to settle."""
    admitted_ids: Collection[str]
    """Ids of the requests to admit."""
    key_digests: Collection[str]
    """Digests of the keys of all admissions and lookups."""
    selecting_digests: Collection[str]
    """The part of `key_digests` whose requests select an account."""


class LedgerBatch:
    """The states of one transaction. Call `load` first and `store` last."""

    def __init__(self, session: Session, statements: LedgerStatements, process_id: int) -> None:
        self.process_id = process_id
        self.now = Instant(0, 0)
        self.holds: dict[str, HoldRow] = {}
        self.keys: dict[int, ApiKeyState] = {}
        self.keys_by_digest: dict[str, ApiKeyState] = {}
        self.accounts: dict[int, AccountState] = {}
        self.selectable: dict[int, list[tuple[int, str]]] = {}
        """Ids and names of the accounts that a key may use, by key id; loaded only for requests that select one."""
        self.prices: dict[str, PriceRow] = {}
        self.used_request_ids: set[str] = set()
        """The ids to be admitted that were used before."""
        self._session = session
        self._statements = statements
        self._new_holds: list[HoldRow] = []
        self._removed_holds: list[str] = []
        self._movements: list[MovementRow] = []
        self._usage: list[UsageRow] = []
        self._daily: dict[tuple[int, int, str, int], list[int]] = {}
        self._hourly: dict[tuple[int, int, int, str, str], list[int]] = {}
        self._corrections: dict[tuple[int, int], int] = {}
        """Tokens to add to the bucket of a key and a second."""

    def load(self, scope: BatchScope, *, begin: bool) -> None:
        """Read and lock all rows of the scope, and then read the clock, in one round trip.

        `begin` starts the transaction in the same round trip. The clock is read after the locks: a transaction that
        locks a row later never gets an earlier time.
        """
        session, statements, listed = self._session, self._statements, self._session.list_parameter
        digests, selecting = listed(scope.key_digests), listed(scope.selecting_digests)
        settled, admitted = listed(scope.settled_ids), listed(scope.admitted_ids)
        with session.pipeline():
            if begin:
                session.begin()
            held = session.deferred_rows(statements.holds_of, settled) if scope.settled_ids else _no_rows
            keys = session.deferred_rows(statements.keys_of, digests, settled)
            accounts = session.deferred_rows(statements.accounts_of, settled, digests, selecting)
            now = session.deferred_now()
            selectable = (
                session.deferred_rows(statements.selectable_accounts, selecting)
                if scope.selecting_digests
                else _no_rows
            )
            taken = (
                session.deferred_rows(statements.used_request_ids, admitted, admitted)
                if scope.admitted_ids
                else _no_rows
            )
        self.holds = {row[0]: HoldRow._make(row) for row in held()}
        for row in keys():
            key = _key_state(KeyRow._make(row))
            self.keys[key.row.id] = self.keys_by_digest[key.row.digest] = key
        for account_id, balance, holds, charges in accounts():
            self.accounts[account_id] = AccountState(id=account_id, balance=balance, holds=holds, charges=charges)
        self.now = now()
        for key_id, account_id, name in selectable():
            self.selectable.setdefault(key_id, []).append((account_id, name))
        self.used_request_ids = {request_id for (request_id,) in taken()}

    def load_prices_and_limits(self, keys: Iterable[ApiKeyState], models: Collection[str]) -> None:
        """Read the prices valid now and the rate windows of keys with limits per minute, after the settlements."""
        session, statements, listed = self._session, self._statements, self._session.list_parameter
        limited = {key.row.id: key for key in keys if key.limits}
        if not limited and not models:
            return
        now = self.now
        since = now.second - WINDOW_SECONDS
        with session.pipeline():
            self._refund_unused_tokens()
            windows = session.deferred_rows(statements.windows, listed(limited), since) if limited else _no_rows
            prices = (
                session.deferred_rows(statements.prices_of, listed(models), now.wall, now.wall) if models else _no_rows
            )
        self.prices = {row[1]: PriceRow._make(row) for row in prices()}
        for key in limited.values():
            key.window = RateWindow(second=now.second, oldest=now.second)
        for key_id, oldest, newest, requests, tokens in windows():
            limited[key_id].window = RateWindow(
                second=now.second,
                oldest=min(oldest, now.second),
                newest=newest,
                requests=requests,
                tokens=tokens,
            )
            if newest > now.second:
                self._rebase_buckets(key_id, requests, tokens)

    def buckets(self, key: ApiKeyState) -> list[Bucket]:
        """Return the buckets of the key's window, oldest first, with what this transaction has added."""
        assert key.window is not None
        second = self.now.second
        stored = self._session.rows(self._statements.buckets, key.row.id, second - WINDOW_SECONDS)
        return [*stored, (second, key.window.new_requests, key.window.new_tokens)]

    def load_usage(self, request_ids: Collection[str]) -> dict[str, UsageRow]:
        """Return the usage of those requests that are settled."""
        if not request_ids:
            return {}
        return {row[0]: UsageRow._make(row) for row in self._rows(self._statements.usage_of, request_ids)}

    def load_own_admissions(self, request_ids: Collection[str]) -> dict[str, Admitted]:
        """Return the requests that this process admitted in a transaction whose commit was never confirmed."""
        rows = map(HoldRow._make, self._rows(self._statements.holds_of, request_ids))
        return {
            row.request_id: Admitted(
                request_id=row.request_id,
                account_id=row.account_id,
                key_id=row.key_id,
                hold=row.amount,
                balance=None,
            )
            for row in rows
            if row.process_id == self.process_id
        }

    def add_hold(self, hold: HoldRow) -> None:
        """Move the amount from the account's balance to its holds."""
        self._new_holds.append(hold)
        if hold.key_id is not None:
            key = self.keys[hold.key_id]
            key.held += hold.amount
            key.running += hold.process_id != QUEUE_PROCESS_ID
            key.changed = True
        if hold.account_id is not None and hold.amount:
            account = self.accounts[hold.account_id]
            account.balance -= hold.amount
            account.holds = check_amount(account.holds + hold.amount)
            account.changed = True
            self._record_movement(hold, "hold", -hold.amount, hold.amount, 0)

    def end_hold(self, hold: HoldRow, usage_row: UsageRow) -> None:
        """Charge a request and release the rest of its hold."""
        del self.holds[hold.request_id]
        self._removed_holds.append(hold.request_id)
        self._usage.append(usage_row)
        self._add_to_sums(usage_row)
        charge = usage_row.charge
        if hold.key_id is not None:
            self._release_key_hold(self.keys[hold.key_id], hold, usage_row)
        if hold.account_id is not None and (hold.amount or charge):
            account = self.accounts[hold.account_id]
            account.balance = check_amount(account.balance + hold.amount - charge)
            account.holds -= hold.amount
            account.charges = check_amount(account.charges + charge)
            account.changed = True
            self._record_movement(hold, "charge" if charge else "release", hold.amount - charge, -hold.amount, charge)

    def store(self) -> None:
        """Write the decisions."""
        session, statements = self._session, self._statements
        self._refund_unused_tokens()
        session.add(statements.add_holds, self._new_holds)
        session.add(statements.add_movements, self._movements)
        session.add(statements.add_usage, self._usage)
        # In sorted order, so that no two transactions wait for each other.
        session.write_many(statements.add_daily, [(*key, *sums) for key, sums in sorted(self._daily.items())])
        session.write_many(statements.add_hourly, [(*key, *sums) for key, sums in sorted(self._hourly.items())])
        if self._removed_holds:
            session.write(statements.remove_holds, session.list_parameter(self._removed_holds))
        keys = [key for key in self.keys.values() if key.changed]
        session.write_many(statements.change_key, [(key.spent, key.held, key.running, key.row.id) for key in keys])
        accounts = [account for account in self.accounts.values() if account.changed]
        session.write_many(
            statements.change_account,
            [(account.balance, account.holds, account.charges, account.id) for account in accounts],
        )
        self._store_buckets(keys)

    def _refund_unused_tokens(self) -> None:
        """Subtract the tokens that ended requests did not use from their rate buckets."""
        corrections = [(more, *bucket) for bucket, more in self._corrections.items()]
        self._corrections = {}
        self._session.write_many(self._statements.correct_bucket, corrections)

    def _store_buckets(self, keys: list[ApiKeyState]) -> None:
        second = self.now.second
        counted = [(key.row.id, key.window) for key in keys if key.window is not None and key.window.new_requests]
        self._session.write_many(
            self._statements.add_bucket,
            [(key_id, second, window.new_requests, window.new_tokens) for key_id, window in counted],
        )
        advanced_key_ids = [key_id for key_id, window in counted if window.newest != second]
        self._session.write_many(
            self._statements.delete_buckets, [(key_id, second - WINDOW_SECONDS) for key_id in advanced_key_ids]
        )

    def _rebase_buckets(self, key_id: int, requests: int, tokens: int) -> None:
        """Count the whole window from now: the clock went back, as it does when the machine is restarted."""
        self._session.write(self._statements.delete_buckets, key_id, _MAX_SECOND)
        self._session.write_many(self._statements.add_bucket, [(key_id, self.now.second, requests, tokens)])

    def _release_key_hold(self, key: ApiKeyState, hold: HoldRow, usage_row: UsageRow) -> None:
        key.spent = check_amount(key.spent + usage_row.charge)
        key.held -= hold.amount
        key.running -= hold.process_id != QUEUE_PROCESS_ID
        key.changed = True
        unused = usage_row.prompt_tokens + usage_row.completion_tokens - hold.counted_tokens
        if hold.counted_second is not None and unused:
            bucket = key.row.id, hold.counted_second
            self._corrections[bucket] = self._corrections.get(bucket, 0) + unused

    def _add_to_sums(self, row: UsageRow) -> None:
        """Add the request to the sums of its day and of its hour."""
        account_id, key_id = row.account_id or 0, row.key_id or 0
        of_day = account_id, key_id, row.model, row.settled_at // DAY_MILLISECONDS
        of_hour = row.settled_at // HOUR_MILLISECONDS, account_id, key_id, row.model, row.dialect
        day, hour = self._daily.get(of_day), self._hourly.get(of_hour)
        if day is None:
            day = self._daily[of_day] = [0] * _DAILY_SUMS
        if hour is None:
            hour = self._hourly[of_hour] = [0] * _HOURLY_SUMS
        error = row.result in _ERRORS
        for sums in (day, hour):
            sums[0] += 1
            sums[1] += row.prompt_tokens
            sums[2] += row.cached_tokens
            sums[3] += row.completion_tokens
            sums[4] += row.charge
            sums[5] += error
        if row.first_token_ms is not None:
            hour[_DAILY_SUMS + bisect_left(FIRST_TOKEN_BOUNDS_MS, row.first_token_ms)] += 1

    def _record_movement(self, hold: HoldRow, kind: str, balance: int, holds: int, charges: int) -> None:
        assert hold.account_id is not None
        self._movements.append(
            MovementRow(
                account_id=hold.account_id,
                at=self.now.wall,
                kind=kind,
                request_id=hold.request_id,
                deposits=0,
                balance=balance,
                holds=holds,
                charges=charges,
            )
        )

    def _rows(self, statement: Statement, values: Iterable[object]) -> list[tuple[Any, ...]]:
        return self._session.rows(statement, self._session.list_parameter(values))


def _no_rows() -> list[Any]:
    return []


def _key_state(row: KeyRow) -> ApiKeyState:
    return ApiKeyState(
        row=row,
        limits=RateLimits(row.requests_per_minute, row.tokens_per_minute),
        spent=row.spent,
        held=row.held,
        running=row.running,
        models=None if row.models is None else _decode_names(row.models),
        dialects=None if row.dialects is None else _decode_names(row.dialects),
    )
