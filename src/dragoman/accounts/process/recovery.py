"""Settling for processes that died, so that no hold outlives its request and nothing delivered is unpaid.

A process on this machine is dead when its journal's lock is free. Its open requests are charged what the journal says
was delivered; those it does not name had been given nothing. A process on another machine is dead when its heartbeat
was missed for DEAD_AFTER_SECONDS: nobody here can read its journal, so its requests are released without a charge,
unless its machine comes back first and settles them itself. A process that was only frozen for so long finds its
requests released.

Everything here may be done by several processes at once, or again after it was interrupted.
"""

from collections.abc import Collection, Iterable

from sqlalchemy import delete, insert, select, update

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import holds, processes
from dragoman.accounts.identifiers import QUEUE_PROCESS_ID
from dragoman.accounts.ledger.ledger import Ledger
from dragoman.accounts.ledger.operations import Settled, Settlement
from dragoman.accounts.process.journal import AbandonedJournal, JournalEntry, JournalFolder

HEARTBEAT_SECONDS = 5
DEAD_AFTER_SECONDS = 60

_MAX_BATCH_SIZE = 500
"""Requests that are settled in one transaction."""


class Recovery:
    """One process's part in it, for one thread at a time."""

    def __init__(self, database: Database, folder: JournalFolder, process_id: int) -> None:
        self._database = database
        self._folder = folder
        self._process_id = process_id
        self._ledger = Ledger(database, process_id)

    def register(self) -> None:
        """Say that this process lives. Its journal must be there already, and it may admit only afterwards."""
        with self._database.write() as connection:
            now = self._database.now(connection).wall
            row = {"id": self._process_id, "machine": self._folder.machine_id, "beat_at": now}
            connection.execute(insert(processes).values(**row))

    def heartbeat(self) -> None:
        """Say so again, every HEARTBEAT_SECONDS. Only other machines look at it: not needed for SQLite."""
        if self._database.is_sqlite:
            return
        with self._database.write() as connection:
            now = self._database.now(connection).wall
            statement = update(processes).where(processes.c.id == self._process_id).values(beat_at=now)
            if connection.execute(statement).rowcount:
                return
        self.register()

    def unregister(self) -> None:
        """This process has ended in order, without open requests."""
        self._delete_processes([self._process_id])

    def recover(self) -> int:
        """Settle for every process that is dead; how many requests that were. Raises what database.failures names."""
        with self._folder.abandoned() as journals:
            settled = sum(map(self._recover_journal, journals))
        return settled + self._recover_without_journal()

    def close(self) -> None:
        """Close the connection."""
        self._ledger.close()

    def _recover_journal(self, journal: AbandonedJournal) -> int:
        settled = self._settle(self._open_requests([journal.process_id]), journal.entries())
        self._delete_processes([journal.process_id])
        journal.path.unlink()
        return settled

    def _recover_without_journal(self) -> int:
        """Requests of processes that left no journal here."""
        dead = self._dead_processes()
        settled = self._settle([*self._open_requests(dead), *self._orphaned_requests()], {})
        self._delete_processes(dead)
        return settled

    def _dead_processes(self) -> list[int]:
        with self._database.read() as connection:
            rows = connection.execute(select(processes)).all()
            oldest_heartbeat = self._database.now(connection).wall - DEAD_AFTER_SECONDS * 1000
        return [
            row.id
            for row in rows
            if (
                not self._folder.exists(row.id)
                if row.machine == self._folder.machine_id
                else row.beat_at < oldest_heartbeat
            )
        ]

    def _orphaned_requests(self) -> list[str]:
        """Those whose process was forgotten: it died while the database was still committing for it."""
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
        settlements = [
            Settlement(*(entries.get(request_id) or JournalEntry(request_id, 0, 0, 0)), "crashed")
            for request_id in request_ids
        ]
        done = 0
        for first in range(0, len(settlements), _MAX_BATCH_SIZE):
            outcomes = self._ledger.commit(settlements[first : first + _MAX_BATCH_SIZE])
            done += sum(isinstance(outcome, Settled) and not outcome.repeated for outcome in outcomes)
        if done:
            self._ledger.sync()
        return done

    def _delete_processes(self, process_ids: Collection[int]) -> None:
        if process_ids:
            with self._database.write() as connection:
                connection.execute(delete(processes).where(processes.c.id.in_(process_ids)))
