"""Open and close the ledger's resources of a server process in the right order."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from dragoman.accounts.database.connections import Database, DatabaseUnavailable
from dragoman.accounts.database.migrations import require_current
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.process.client import HEARTBEAT_TIMEOUT_SECONDS, MAX_WAITING, TIMEOUT_SECONDS, LedgerClient
from dragoman.accounts.process.handle import LedgerProcessHandle
from dragoman.accounts.process.journal import Journal, JournalFolder
from dragoman.accounts.process.recovery import HEARTBEAT_SECONDS, Recovery
from dragoman.accounts.process.transport import LedgerTransport
from dragoman.core import logs
from dragoman.core.background_tasks import repeat

_ROUNDS_TO_RESTORE = 2
"""Rounds in which every process has restored its journal after the folder was deleted."""

_log = logs.get_logger(__name__)


class LedgerResources(NamedTuple):
    """The resources with which the gateway admits and settles."""

    database: Database
    ledger: LedgerClient
    journal: Journal


@contextlib.asynccontextmanager
async def open_ledger(
    database: Database,
    journals: Path,
    *,
    process_id: int | None = None,
    max_waiting: int = MAX_WAITING,
    timeout_seconds: float = TIMEOUT_SECONDS,
    heartbeat_timeout_seconds: float = HEARTBEAT_TIMEOUT_SECONDS,
    transport: type[LedgerTransport] = LedgerProcessHandle,
) -> AsyncIterator[LedgerResources]:
    """Settle for dead processes, register this process, and start its ledger client.

    `journals` is a folder on this machine, the same for all its processes that use the database. `process_id`
    identifies this process; None: a new id. `transport` is the kind of process or thread that the ledger runs in.
    Raises DatabaseOutdated, DatabaseTooNew, DatabaseUnavailable, and OSError for the folder.
    """
    process_id = new_process_id() if process_id is None else process_id
    folder = JournalFolder(journals)
    recovery = Recovery(database, folder, process_id)
    await asyncio.to_thread(require_current, database)
    journal = folder.create(process_id)
    try:
        await asyncio.to_thread(_register_and_recover, recovery)
        rounds = LedgerMaintenance(database, recovery, folder, journal)
        maintenance = asyncio.create_task(repeat("ledger maintenance", rounds.run_round, HEARTBEAT_SECONDS))
        try:
            async with LedgerClient(
                database,
                process_id,
                max_waiting=max_waiting,
                timeout_seconds=timeout_seconds,
                heartbeat_timeout_seconds=heartbeat_timeout_seconds,
                transport=transport,
            ) as ledger:
                yield LedgerResources(database, ledger, journal)
        finally:
            maintenance.cancel()
            await asyncio.wait([maintenance])
    finally:
        is_journal_empty = journal.close()
        await asyncio.to_thread(_unregister, recovery, is_journal_empty)


def _register_and_recover(recovery: Recovery) -> None:
    recovery.register()
    recovery.recover()


def _unregister(recovery: Recovery, is_journal_empty: bool) -> None:
    try:
        if is_journal_empty:
            recovery.unregister()
    except DatabaseUnavailable as error:
        # Other processes will detect that this one is gone.
        _log.warning("process_unregister_failed", error=str(error))
    finally:
        recovery.close()


class LedgerMaintenance:
    """Renews a process's heartbeat and settles for dead processes, one round at a time."""

    def __init__(self, database: Database, recovery: Recovery, folder: JournalFolder, journal: Journal) -> None:
        self._outage = database.outage
        self._recovery = recovery
        self._folder = folder
        self._journal = journal
        self._rounds_to_wait = 0

    async def run_round(self) -> None:
        """Run one round. A database that cannot be used is only logged. Raises OSError for the journals' folder."""
        # Heartbeats first: what this machine cannot write to its disk must not make others take it for dead.
        is_reached = await self._reaches_database(self._beat)
        await self._restore_journal()
        if is_reached:
            await self._reaches_database(self._recover)

    async def _reaches_database(self, step: Callable[[], Awaitable[None]]) -> bool:
        """Do a step of the round. False: the database cannot be used."""
        try:
            await step()
        except DatabaseUnavailable as error:
            self._outage.fail(error)
            return False
        if self._outage.is_active:
            self._outage.succeed()
        return True

    async def _beat(self) -> None:
        await asyncio.to_thread(self._recovery.heartbeat)

    async def _restore_journal(self) -> None:
        if await asyncio.to_thread(self._folder.restore, self._journal):
            _log.error("journal_deleted", path=str(self._journal.path))
            self._rounds_to_wait = _ROUNDS_TO_RESTORE

    async def _recover(self) -> None:
        if self._rounds_to_wait:  # Processes that have not restored their journals yet would be taken for dead.
            self._rounds_to_wait -= 1
        elif settled := await asyncio.to_thread(self._recovery.recover):
            _log.warning("journal_recovered", requests=settled)
