"""The gateway's connection to the accounts' ledger, open while requests are served."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from dragoman.accounts.database.connections import Database
from dragoman.accounts.process.client import HEARTBEAT_TIMEOUT_SECONDS, TIMEOUT_SECONDS
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


class LedgerConnection:
    """One process's ledger client and journal, within `opened`."""

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
            yield self._resources

    @property
    def resources(self) -> LedgerResources:
        """The open client and journal."""
        assert self._resources is not None, "opened before the first request"
        return self._resources
