"""Everything a server process needs of the accounts, opened and closed in the right order."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import structlog

from dragoman.accounts.child import LedgerProcess
from dragoman.accounts.client import MOST_WAITING, PATIENCE_SECONDS, LedgerClient
from dragoman.accounts.database import Database
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.journal import Journal, JournalFolder
from dragoman.accounts.migrations import require_current
from dragoman.accounts.recovery import BEAT_SECONDS, Recovery
from dragoman.accounts.transport import LedgerTransport

_log = structlog.get_logger(__name__)


class Accounts(NamedTuple):
    """What the gateway admits and settles with."""

    database: Database
    ledger: LedgerClient
    journal: Journal


@contextlib.asynccontextmanager
async def open_accounts(
    database: Database,
    journals: Path,
    *,
    process_id: int | None = None,
    most_waiting: int = MOST_WAITING,
    patience_seconds: float = PATIENCE_SECONDS,
    transport: type[LedgerTransport] = LedgerProcess,
) -> AsyncIterator[Accounts]:
    """This process's part of the accounts, after what dead processes left open is settled.

    `journals` is a folder on this machine, the same for all its processes that use the database. `process_id`
    is what others are told of this process; None: a new one. `transport` says where the ledger works. Raises
    DatabaseOutdated, DatabaseTooNew, what database.failures names, and OSError for the folder.
    """
    process_id = new_process_id() if process_id is None else process_id
    folder = JournalFolder(journals)
    recovery = Recovery(database, folder, process_id)
    await asyncio.to_thread(require_current, database)
    journal = folder.create(process_id)
    try:
        await asyncio.to_thread(_begin, recovery)
        upkeep = asyncio.create_task(_keep_up(database, recovery))
        try:
            async with LedgerClient(
                database,
                process_id,
                most_waiting=most_waiting,
                patience_seconds=patience_seconds,
                transport=transport,
            ) as ledger:
                yield Accounts(database, ledger, journal)
        finally:
            upkeep.cancel()
            await asyncio.wait([upkeep])
    finally:
        finished = journal.close()
        await asyncio.to_thread(_end, database, recovery, finished)


def _begin(recovery: Recovery) -> None:
    recovery.register()
    recovery.recover()


def _end(database: Database, recovery: Recovery, finished: bool) -> None:
    try:
        if finished:
            recovery.unregister()
    except database.failures as error:
        # Others will find that the process is gone.
        _log.warning("accounts_process_not_unregistered", error=str(error))
    finally:
        recovery.close()


async def _keep_up(database: Database, recovery: Recovery) -> None:
    while True:
        await asyncio.sleep(BEAT_SECONDS)
        try:
            await asyncio.to_thread(recovery.beat)
            if settled := await asyncio.to_thread(recovery.recover):
                _log.warning("accounts_recovered", requests=settled)
        except database.failures as error:
            _log.warning("accounts_recovery_failed", error=str(error))
