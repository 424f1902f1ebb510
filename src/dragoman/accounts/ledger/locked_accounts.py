"""Accounts whose rows another transaction keeps locked, such as an operator's `SELECT … FOR UPDATE` on PostgreSQL.

A transaction waits for them for a moment only, since requests of other accounts share it. It then leaves their
operations out, and so do those after it for a while, without waiting.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dragoman.accounts.database.sessions import Session
from dragoman.accounts.database.statements import Statement
from dragoman.accounts.ledger.operations import LedgerOperation, Settlement
from dragoman.core import logs

_QUARANTINE_SECONDS = 5.0
"""How long an account is not waited for that was locked for too long. Where many processes take turns at it, each gets
its turn only if it waits."""

_PAUSE_SECONDS = 0.02
"""What is free after this time was locked by a transaction like this one."""

_TEXTS = "%s::text[]"

_CONCERNED = Statement(
    f"""
WITH asking AS MATERIALIZED (
    SELECT id, digest, account_id FROM keys WHERE digest = ANY ({_TEXTS})
), held AS MATERIALIZED (
    SELECT request_id, key_id, account_id FROM holds WHERE request_id = ANY ({_TEXTS}) AND account_id IS NOT NULL
), needs AS MATERIALIZED (
    SELECT digest AS name, id AS key_id, account_id, NULL AS request_id FROM asking UNION ALL
    SELECT request_id, key_id, account_id, request_id FROM held UNION ALL
    SELECT digest, NULL, of_key.account_id, NULL FROM key_accounts of_key JOIN asking ON of_key.key_id = asking.id
    WHERE digest = ANY ({_TEXTS})
), free_holds AS MATERIALIZED (
    SELECT request_id FROM holds WHERE request_id = ANY (ARRAY(SELECT request_id FROM held)) FOR UPDATE SKIP LOCKED
), free_keys AS MATERIALIZED (
    SELECT id FROM keys WHERE id = ANY (ARRAY(SELECT key_id FROM needs)) FOR UPDATE SKIP LOCKED
), free_accounts AS MATERIALIZED (
    SELECT id FROM accounts WHERE id = ANY (ARRAY(SELECT account_id FROM needs)) FOR UPDATE SKIP LOCKED
)
SELECT name, account_id, account_id IN (SELECT id FROM free_accounts)
    AND (key_id IS NULL OR key_id IN (SELECT id FROM free_keys))
    AND (request_id IS NULL OR request_id IN (SELECT request_id FROM free_holds))
FROM needs
""",
    ("digests", "settled", "selecting"),
)
"""Digests of keys and ids of requests, each with the accounts that it concerns and whether their rows are free now."""

_log = logs.get_logger(__name__)


class LockedAccounts:
    """Those that one ledger does not wait for at present."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ids: set[int] = set()
        self._waits_again_at = 0.0

    @property
    def has_any(self) -> bool:
        """Whether there are any now."""
        return bool(self._ids) and self._clock() < self._waits_again_at

    def find_concerned(self, session: Session, operations: Sequence[LedgerOperation]) -> set[str]:
        """Return the names, see name_of, of the operations that need rows of these accounts which are still locked.

        An account without any is waited for again.
        """
        concerned = _concerned(session, operations)
        locked = {each for each in concerned if not each.is_free}
        self._ids -= {each.account_id for each in concerned}.difference(each.account_id for each in locked)
        return {each.name for each in locked if each.account_id in self._ids}

    def find_concerned_within(self, session: Session, operations: Sequence[LedgerOperation]) -> set[str]:
        """Do what `find_concerned` does within a transaction, which gets no locks by it."""
        with session.releasing_locks():
            return self.find_concerned(session, operations)

    def find_locked(self, session: Session, operations: Sequence[LedgerOperation]) -> set[str]:
        """Return the names of the operations that need locked rows. Their accounts are not waited for from now on."""
        locked = {each for each in _concerned(session, operations) if not each.is_free}
        if locked:
            time.sleep(_PAUSE_SECONDS)
            locked.intersection_update(_concerned(session, operations))
        if locked:
            if not self.has_any:
                self._ids.clear()
            self._ids.update(each.account_id for each in locked)
            self._waits_again_at = self._clock() + _QUARANTINE_SECONDS
            _log.warning("accounts_locked", accounts=sorted({each.account_id for each in locked}))
        return {each.name for each in locked}


class _Concerned(NamedTuple):
    name: str
    account_id: int
    is_free: bool


def name_of(operation: LedgerOperation) -> str | None:
    """Return the id of the request to settle, or the digest of the key that asks."""
    return operation.request_id if isinstance(operation, Settlement) else operation.key_digest


def _concerned(session: Session, operations: Sequence[LedgerOperation]) -> list[_Concerned]:
    """Return names of operations with the accounts that they concern, and whether the rows that they need are free.

    The rows are locked no longer than the statement takes: the order in which transactions lock them is another one.
    """
    settled = [each.request_id for each in operations if isinstance(each, Settlement)]
    asking = [each for each in operations if not isinstance(each, Settlement) and each.key_digest is not None]
    selecting = [each.key_digest for each in asking if each.account is not None]
    rows = session.rows(_CONCERNED, [each.key_digest for each in asking], settled, selecting)
    return list(map(_Concerned._make, rows))
