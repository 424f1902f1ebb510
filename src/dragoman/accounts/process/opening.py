"""Open and close the ledger's resources of a server process in the right order."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import structlog

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import require_current
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.process.client import HEARTBEAT_TIMEOUT_SECONDS, MAX_WAITING, TIMEOUT_SECONDS, LedgerClient
from dragoman.accounts.process.handle import LedgerProcessHandle
from dragoman.accounts.process.journal import Journal, JournalFolder
from dragoman.accounts.process.recovery import HEARTBEAT_SECONDS, Recovery
from dragoman.accounts.process.transport import LedgerTransport

_log = structlog.get_logger(__name__)


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
    Raises DatabaseOutdated, DatabaseTooNew, Database.transient_errors, and OSError for the folder.
    """
    process_id = new_process_id() if process_id is None else process_id
    folder = JournalFolder(journals)
    recovery = Recovery(database, folder, process_id)
    await asyncio.to_thread(require_current, database)
    journal = folder.create(process_id)
    try:
        await asyncio.to_thread(_register_and_recover, recovery)
        maintenance = asyncio.create_task(_maintain(database, recovery))
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
        await asyncio.to_thread(_unregister, database, recovery, is_journal_empty)


def _register_and_recover(recovery: Recovery) -> None:
    recovery.register()
    recovery.recover()


def _unregister(database: Database, recovery: Recovery, is_journal_empty: bool) -> None:
    try:
        if is_journal_empty:
            recovery.unregister()
    except database.transient_errors as error:
        # Other processes will detect that this one is gone.
        _log.warning("process_unregister_failed", error=str(error))
    finally:
        recovery.close()


async def _maintain(database: Database, recovery: Recovery) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT_SECONDS)
        try:
            await asyncio.to_thread(recovery.heartbeat)
            if settled := await asyncio.to_thread(recovery.recover):
                _log.warning("journal_recovered", requests=settled)
        except database.transient_errors as error:
            _log.warning("journal_recovery_failed", error=str(error))
