"""Settle for processes that died, so that no hold outlives its request and no delivered token stays unpaid.

A process on this machine is dead if its journal's lock is free. Its open requests are charged for the tokens in the
journal; a request without an entry received nothing. A process on another machine is dead if its heartbeat was missed
for DEAD_AFTER_SECONDS, and in DEAD_AFTER_ROUNDS. Its journal cannot be read here, so its requests are released without
a charge, unless its machine comes back first and settles them itself. A process that was only frozen for that long
finds its requests released.

Several processes may recover at the same time, and an interrupted recovery may be repeated.
"""

import time
from collections.abc import Collection, Iterable

from sqlalchemy import delete, insert, select, update

from dragoman.accounts.database.connections import Database, DatabaseUnavailable
from dragoman.accounts.database.tables import holds, processes
from dragoman.accounts.identifiers import QUEUE_PROCESS_ID
from dragoman.accounts.ledger.ledger import Ledger
from dragoman.accounts.ledger.operations import AccountLocked, Settled, Settlement
from dragoman.accounts.process.journal import AbandonedJournal, JournalEntry, JournalFolder

HEARTBEAT_SECONDS = 5
DEAD_AFTER_SECONDS = 60

DEAD_AFTER_ROUNDS = 6
"""Rounds of recovery in a row, HEARTBEAT_SECONDS apart. When the database was gone for long, or its clock has jumped,
the heartbeats of all processes are old; those that live renew them before so many rounds have passed."""

_UNKNOWN_JOURNAL_SECONDS = 24 * 3600
"""How long a journal is kept whose process the database does not know."""

_MAX_BATCH_SIZE = 500
"""Requests settled in one transaction."""


class Recovery:
    """One process's registration, heartbeat and recovery of others, for one thread at a time."""

    def __init__(self, database: Database, folder: JournalFolder, process_id: int) -> None:
        self._database = database
        self._folder = folder
        self._process_id = process_id
        self._ledger = Ledger(database, process_id, skips_locked=True)
        self._rounds_missed: dict[int, int] = {}
        """In how many rounds, up to the last one, each process of another machine has missed its heartbeat."""

    def register(self) -> None:
        """Register this process. Its journal must exist already, and it may admit only afterwards."""
        with self._database.write() as connection:
            now = self._database.now(connection).wall
            row = {"id": self._process_id, "machine": self._folder.machine_id, "beat_at": now}
            connection.execute(insert(processes).values(**row))

    def heartbeat(self) -> None:
        """Renew the heartbeat, every HEARTBEAT_SECONDS, and register again if the registration is gone.

        Only other machines read it, so that on SQLite nothing is written, unless a process has its journal in another
        folder, or an outage may have ended: reads succeed on a full disk. A restored database lacks the registration.
        """
        if self._database.is_sqlite and not self._database.outage.is_active and self._is_registered_alone():
            return
        with self._database.write() as connection:
            now = self._database.now(connection).wall
            own_row = update(processes).where(processes.c.id == self._process_id)
            statement = own_row.values(beat_at=now, machine=self._folder.machine_id)
            if connection.execute(statement).rowcount:
                return
        self.register()

    def unregister(self) -> None:
        """Remove this process, which has ended normally and without open requests."""
        self._delete_processes([self._process_id])

    def _is_registered_alone(self) -> bool:
        """Whether this process is registered, and all others have their journals in its folder."""
        with self._database.read() as connection:
            rows = connection.execute(select(processes.c.id, processes.c.machine)).all()
        machine = self._folder.machine_id
        return (self._process_id, machine) in rows and all(row.machine == machine for row in rows)

    def recover(self) -> int:
        """Settle for every dead process, and return the number of requests. Raises DatabaseUnavailable."""
        with self._folder.abandoned() as journals:
            settled = sum(map(self._recover_journal, journals))
        return settled + self._recover_without_journal()

    def close(self) -> None:
        """Close the connection."""
        self._ledger.close()

    def _recover_journal(self, journal: AbandonedJournal) -> int:
        entries, requests = journal.entries(), self._open_requests([journal.process_id])
        if requests or self._is_registered(journal.process_id):
            settled = self._settle(requests, entries)
            self._delete_processes([journal.process_id])
            journal.path.unlink()
            return settled
        # It may be of another database, whose servers have the same folder: without it, they would charge nothing.
        if not entries or time.time() - journal.path.stat().st_mtime > _UNKNOWN_JOURNAL_SECONDS:
            journal.path.unlink()
        return 0

    def _is_registered(self, process_id: int) -> bool:
        with self._database.read() as connection:
            return bool(connection.execute(select(processes.c.id).where(processes.c.id == process_id)).all())

    def _recover_without_journal(self) -> int:
        """Settle the requests of processes without a journal on this machine."""
        dead = self._dead_processes()
        settled = self._settle([*self._open_requests(dead), *self._orphaned_requests()], {})
        self._delete_processes(dead)
        return settled

    def _dead_processes(self) -> list[int]:
        with self._database.read() as connection:
            rows = connection.execute(select(processes)).all()
            oldest_heartbeat = self._database.now(connection).wall - DEAD_AFTER_SECONDS * 1000
        machine = self._folder.machine_id
        late = [row.id for row in rows if row.machine != machine and row.beat_at < oldest_heartbeat]
        self._rounds_missed = {each: self._rounds_missed.get(each, 0) + 1 for each in late}
        return [
            *(row.id for row in rows if row.machine == machine and not self._folder.exists(row.id)),
            *(each for each, rounds in self._rounds_missed.items() if rounds >= DEAD_AFTER_ROUNDS),
        ]

    def _orphaned_requests(self) -> list[str]:
        """List requests of processes no longer registered: they died while the database was committing for them."""
        with self._database.read() as connection:
            registered = select(processes.c.id)
            not_queued = holds.c.process_id != QUEUE_PROCESS_ID
            query = select(holds.c.request_id).where(holds.c.process_id.not_in(registered), not_queued)
            return list(connection.execute(query).scalars())

    def _open_requests(self, process_ids: Collection[int]) -> list[str]:
        if not process_ids:
            return []
        with self._database.read() as connection:
            query = select(holds.c.request_id).where(holds.c.process_id.in_(process_ids))
            return list(connection.execute(query).scalars())

    def _settle(self, request_ids: Iterable[str], entries: dict[str, JournalEntry]) -> int:
        settlements = [_settlement(request_id, entries.get(request_id)) for request_id in request_ids]
        settled, locked = 0, False
        for first in range(0, len(settlements), _MAX_BATCH_SIZE):
            outcomes = self._ledger.commit(settlements[first : first + _MAX_BATCH_SIZE])
            settled += sum(isinstance(outcome, Settled) and not outcome.repeated for outcome in outcomes)
            locked = locked or any(isinstance(outcome, AccountLocked) for outcome in outcomes)
        if settled:
            self._ledger.sync()
        if locked:  # The next round tries again, as long as their processes are known.
            raise DatabaseUnavailable("the requests of a dead process are locked by another transaction")
        return settled

    def _delete_processes(self, process_ids: Collection[int]) -> None:
        if process_ids:
            with self._database.write() as connection:
                connection.execute(delete(processes).where(processes.c.id.in_(process_ids)))


def _settlement(request_id: str, entry: JournalEntry | None) -> Settlement:
    if entry is None:
        return Settlement.uncharged(request_id, "crashed")
    return Settlement(
        request_id=request_id,
        prompt_tokens=entry.prompt_tokens,
        cached_tokens=entry.cached_tokens,
        completion_tokens=entry.completion_tokens,
        result="crashed",
        fallback=entry.fallback,
    )
