"""The gateway's connection to the accounts' ledger, open while requests are served."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from dragoman.accounts.database.connections import Database
from dragoman.accounts.process.client import HEARTBEAT_TIMEOUT_SECONDS, TIMEOUT_SECONDS, LedgerClient
from dragoman.accounts.process.handle import LedgerProcessHandle
from dragoman.accounts.process.opening import LedgerResources, open_ledger
from dragoman.accounts.process.transport import LedgerTransport


class AccountsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where the accounts are, and how they are used."""

    database: Database
    journals: Path
    """A folder on this machine, the same for all processes that use the database."""
    hold_cap: int | None = None
    """The most completion tokens that a hold covers; None: as many as the request may generate."""
    timeout_seconds: float = TIMEOUT_SECONDS
    """How long a request waits for the ledger."""
    heartbeat_timeout_seconds: float = HEARTBEAT_TIMEOUT_SECONDS
    """How long a ledger process may be silent."""
    transport: type[LedgerTransport] = LedgerProcessHandle
    """Where the ledger works: in a process of its own, which has a core of its own, or in a thread of this one."""


class LedgerState(NamedTuple):
    """What one process knows of its ledger."""

    is_available: bool
    """Whether the database has answered lately."""
    waiting: int
    """Operations that are not answered yet."""
    answered_at: float | None
    """When the ledger last answered, in seconds since 1970. None: nobody observes it."""


class LedgerObserver(Protocol):
    """Counts what a client of the ledger does."""

    answered_at: float
    """When the ledger last answered, in seconds since 1970; before the first answer, when the observer was made."""

    def observing(self, client: LedgerClient) -> AbstractAsyncContextManager[None]:
        """Count what the client does within the block."""
        ...


class LedgerConnection:
    """One process's ledger client and journal, within `opened`."""

    observer: LedgerObserver | None = None
    """Set it before the connection is opened."""

    def __init__(self, options: AccountsOptions, process_id: int) -> None:
        """`process_id` identifies this process to others that use the database."""
        self.hold_cap = options.hold_cap
        self._options = options
        self._process_id = process_id
        self._resources: LedgerResources | None = None

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[LedgerResources]:
        """Open the ledger for the block. Raises what open_ledger raises."""
        async with open_ledger(
            self._options.database,
            self._options.journals,
            process_id=self._process_id,
            timeout_seconds=self._options.timeout_seconds,
            heartbeat_timeout_seconds=self._options.heartbeat_timeout_seconds,
            transport=self._options.transport,
        ) as self._resources:
            observer = self.observer
            async with contextlib.nullcontext() if observer is None else observer.observing(self._resources.ledger):
                yield self._resources

    def state(self) -> LedgerState:
        """Return the state of the ledger now."""
        return LedgerState(
            is_available=self._resources is not None and not self._options.database.outage.is_active,
            waiting=0 if self._resources is None else self._resources.ledger.pending_count,
            answered_at=None if self.observer is None else self.observer.answered_at,
        )

    @property
    def folders(self) -> Mapping[str, Path]:
        """The folders on this machine that it writes to, by what they have."""
        database = self._options.database
        folders = {"journals": self._options.journals}
        return {**folders, "database": Path(database.path).parent} if database.is_sqlite else folders

    @property
    def resources(self) -> LedgerResources:
        """The open client and journal."""
        assert self._resources is not None, "opened before the first request"
        return self._resources
