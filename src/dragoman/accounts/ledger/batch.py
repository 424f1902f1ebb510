"""Everything that one transaction reads, decides and writes, in a constant number of statements for any number of
requests.

The transaction first reads and locks the rows. Decisions then change the states here, in the order in which the
requests arrived, so that the second request sees what the first was given. Finally the changes are written.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec

from dragoman.accounts.database.sessions import Instant, Session
from dragoman.accounts.database.statements import Statement
from dragoman.accounts.database.tables import FIRST_TOKEN_BOUNDS_MS, FIRST_TOKEN_CLASSES
from dragoman.accounts.identifiers import QUEUE_PROCESS_ID
from dragoman.accounts.ledger.ledger_statements import LedgerStatements, ListStatements, TableStatements
from dragoman.accounts.ledger.operations import Admitted
from dragoman.accounts.ledger.rate_limits import WINDOW_SECONDS, Bucket, RateLimits, RateWindow
from dragoman.accounts.ledger.rows import (
    AccountRow,
    BatchScope,
    ChangedRows,
    HoldRow,
    KeyRow,
    LoadedRows,
    MovementRow,
    PriceRow,
    UsageRow,
    WindowRow,
)
from dragoman.accounts.times import DAY_MILLISECONDS, HOUR_MILLISECONDS
from dragoman.core.money import check_amount

_MAX_SECOND = 2**63 - 1

_ERRORS = frozenset({"failed", "crashed"})
"""Results that count as errors in the sums of usage."""

_DAILY_SUMS = 6
_HOURLY_SUMS = _DAILY_SUMS + len(FIRST_TOKEN_CLASSES)

_KEY_COLUMNS = len(KeyRow._fields)

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
        self._rebased_keys: set[int] = set()

    def load(self, scope: BatchScope, *, begin: bool) -> None:
        """Read and lock all rows of the scope, and then read the clock, in one round trip.

        `begin` starts the transaction in the same round trip. The clock is read after the locks: a transaction that
        locks a row later never gets an earlier time.
        """
        tables, combined = self._statements.tables, self._statements.combined
        if combined is not None:
            loaded = combined.read(self._session, scope, begin=begin)
        else:
            assert tables is not None, "one of them is there"
            loaded = self._load_tables(tables, scope, begin=begin)
        self.now = now = loaded.now
        self.holds = {row.request_id: row for row in loaded.holds}
        for key_row in loaded.keys:
            key = _key_state(key_row)
            self.keys[key_row.id] = self.keys_by_digest[key_row.digest] = key
            if key_row.is_limited and key_row.digest in scope.key_digests:
                key.window = RateWindow(second=now.second, oldest=now.second)
        for account_id, balance, holds, charges in loaded.accounts:
            self.accounts[account_id] = AccountState(id=account_id, balance=balance, holds=holds, charges=charges)
        for key_id, account_id, name in loaded.selectable:
            if account_id not in self.accounts:  # The key was given it after the accounts were locked.
                continue
            self.selectable.setdefault(key_id, []).append((account_id, name))
        self.used_request_ids = set(loaded.used_request_ids)
        self.prices = {row.model: row for row in loaded.prices}
        for window in loaded.windows:
            self._add_window(window)

    def _load_tables(self, tables: TableStatements, scope: BatchScope, *, begin: bool) -> LoadedRows:
        session = self._session
        rows = session.rows
        if begin:
            session.begin()
        settled, digests, selecting = scope.settled_ids, scope.key_digests, scope.selecting_digests
        of, parameters = self._with_lists(tables, (settled, digests, selecting, scope.admitted_ids, scope.models))
        settled_list, digest_list, selecting_list, admitted_list, model_list = parameters
        now = session.now()
        held = list(map(HoldRow._make, rows(of.holds_of, settled_list))) if settled else []
        asking = rows(of.keys_asking, digest_list) if digests else ()
        found_keys = [KeyRow._make(row[:_KEY_COLUMNS]) for row in asking]
        found_accounts = {row[_KEY_COLUMNS]: AccountRow._make(row[_KEY_COLUMNS:]) for row in asking}
        limited = [row.id for row in found_keys if row.is_limited]
        selectable = rows(of.selectable_accounts, selecting_list) if selecting else []
        # Almost all requests that are settled have the key and the account of one that is admitted.
        if other_keys := {row.key_id for row in held}.difference((row.id for row in found_keys), (None,)):
            of_others, (other_list,) = self._with_lists(tables, (other_keys,))
            found_keys += map(KeyRow._make, rows(of_others.keys_of, other_list))
        others = {row.account_id for row in held}.union(account_id for _, account_id, _ in selectable)
        if others := others.difference(found_accounts, (None,)):
            of_others, (other_list,) = self._with_lists(tables, (others,))
            found_accounts |= {row[0]: AccountRow._make(row) for row in rows(of_others.accounts_of, other_list)}
        of_limited, (limited_list,) = self._with_lists(tables, (limited,))
        used = rows(of.used_request_ids, admitted_list, admitted_list) if scope.admitted_ids else ()
        windows = rows(of_limited.windows, limited_list, now.second - WINDOW_SECONDS) if limited else ()
        prices = rows(of.prices_of, model_list, now.wall, now.wall) if scope.models else ()
        return LoadedRows(
            holds=held,
            keys=found_keys,
            accounts=list(found_accounts.values()),
            now=now,
            used_request_ids=[request_id for (request_id,) in used],
            windows=list(map(WindowRow._make, windows)),
            prices=list(map(PriceRow._make, prices)),
            selectable=selectable,
        )

    def _store_tables(self, tables: TableStatements, rows: ChangedRows) -> None:
        session, write_many = self._session, self._session.write_many
        write_many(self._statements.correct_bucket, rows.corrections)
        write_many(tables.add_holds, rows.holds)
        write_many(tables.add_movements, rows.movements)
        write_many(tables.add_usage, rows.usage)
        write_many(tables.add_daily, rows.daily)
        write_many(tables.add_hourly, rows.hourly)
        if rows.removed_holds:
            of, (removed,) = self._with_lists(tables, (rows.removed_holds,))
            session.write(of.remove_holds, removed)
        write_many(tables.change_key, rows.keys)
        write_many(tables.change_account, rows.accounts)
        write_many(self._statements.add_bucket, rows.buckets)
        write_many(self._statements.delete_buckets, rows.old_buckets)

    def _with_lists(
        self, tables: TableStatements, lists: Sequence[Collection[object]]
    ) -> tuple[ListStatements, Sequence[object]]:
        """Return the statements that fit the lengths of the lists, and the lists as their parameters."""
        if all(len(each) <= 1 for each in lists):
            return tables.of_single, [next(iter(each), None) for each in lists]
        return tables.of_lists, list(map(self._session.list_parameter, lists))

    def _add_window(self, row: WindowRow) -> None:
        key, second = self.keys.get(row.key_id), self.now.second
        if key is None or key.window is None:  # None: it was created after the keys were read.
            return
        key.window = RateWindow(
            second=second,
            oldest=min(row.oldest, second),
            newest=row.newest,
            requests=row.requests,
            tokens=row.tokens,
        )
        if row.newest > second:
            self._rebase_buckets(row)

    def buckets(self, key: ApiKeyState) -> list[Bucket]:
        """Return the buckets of the key's window, oldest first, with what this transaction has added."""
        assert key.window is not None
        self._refund_unused_tokens()
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
        keys = [key for key in self.keys.values() if key.changed]
        accounts = [account for account in self.accounts.values() if account.changed]
        second = self.now.second
        counted = [(key.row.id, key.window) for key in keys if key.window is not None and key.window.new_requests]
        buckets = [
            # What was refunded in this second is added with it: no statement changes a row twice.
            (key_id, second, window.new_requests, window.new_tokens + self._corrections.pop((key_id, second), 0))
            for key_id, window in counted
        ]
        rows = ChangedRows(
            corrections=[(more, *bucket) for bucket, more in self._corrections.items()],
            holds=self._new_holds,
            movements=self._movements,
            usage=self._usage,
            # In sorted order, so that no two transactions wait for each other.
            daily=[(*key, *sums) for key, sums in sorted(self._daily.items())],
            hourly=[(*key, *sums) for key, sums in sorted(self._hourly.items())],
            removed_holds=self._removed_holds,
            keys=[(key.spent, key.held, key.running, key.row.id) for key in keys],
            accounts=[(account.balance, account.holds, account.charges, account.id) for account in accounts],
            buckets=buckets,
            old_buckets=[(key_id, second - WINDOW_SECONDS) for key_id, window in counted if window.newest != second],
        )
        if self._statements.combined is not None:
            self._statements.combined.write(self._session, rows)
        elif self._statements.tables is not None:
            self._store_tables(self._statements.tables, rows)

    def _refund_unused_tokens(self) -> None:
        """Subtract the tokens that ended requests did not use from their rate buckets."""
        corrections = [(more, *bucket) for bucket, more in self._corrections.items()]
        self._corrections = {}
        self._session.write_many(self._statements.correct_bucket, corrections)

    def _rebase_buckets(self, row: WindowRow) -> None:
        """Count the whole window from now: the clock went back, as it does when the machine is restarted."""
        self._rebased_keys.add(row.key_id)
        self._session.write(self._statements.delete_buckets, row.key_id, _MAX_SECOND)
        rebased = (row.key_id, self.now.second, row.requests, row.tokens)
        self._session.write_many(self._statements.add_bucket, [rebased])

    def _release_key_hold(self, key: ApiKeyState, hold: HoldRow, usage_row: UsageRow) -> None:
        key.spent = check_amount(key.spent + usage_row.charge)
        key.held -= hold.amount
        key.running -= hold.process_id != QUEUE_PROCESS_ID
        key.changed = True
        unused = usage_row.prompt_tokens + usage_row.completion_tokens - hold.counted_tokens
        if hold.counted_second is not None and unused:
            second = self.now.second if key.row.id in self._rebased_keys else hold.counted_second
            bucket = key.row.id, second
            self._corrections[bucket] = self._corrections.get(bucket, 0) + unused
            if key.window is not None and key.window.oldest <= second <= key.window.newest:
                key.window.tokens += unused

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
