"""The services of an HTTP worker that use the accounts' database."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from dragoman.accounts.database.idempotency_keys import DEFAULT_MAX_BYTES
from dragoman.accounts.database.thread import DatabaseThread
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.ledger.operations import KeyLookup
from dragoman.core.errors import KeyUnknown, LedgerUnavailable
from dragoman.gateway.admission.ledger import LedgerAdmission
from dragoman.gateway.auth.account_keys import AccountKeyAuthenticator
from dragoman.gateway.execution.stored_responses import MAX_RESPONSE_BYTES, DatabaseIdempotencyStore
from dragoman.gateway.ledger_connection import AccountsOptions, LedgerConnection


class AccountingServices:
    """Admission and billing, stored responses, and a thread for all other use of the database."""

    def __init__(
        self,
        options: AccountsOptions,
        *,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        max_stored_response_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        """Responses of more than `max_response_bytes` are not stored. All stored ones together have a limit too."""
        self._database = options.database
        process_id = new_process_id()
        self._connection = connection = LedgerConnection(options, process_id)
        self.authenticator = AccountKeyAuthenticator(connection)
        self.admission = LedgerAdmission(connection, self.authenticator)
        self.database_thread = DatabaseThread(options.database)
        """For reports and administration, whose calls may read for long."""
        self._request_thread = DatabaseThread(options.database)
        self.idempotency_store = DatabaseIdempotencyStore(
            self._request_thread,
            process_id,
            max_response_bytes=max_response_bytes,
            max_bytes=max_stored_response_bytes,
        )

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Admit requests within the block, and settle and close everything at its end. May be used once.

        Raises the errors of open_ledger.
        """
        try:
            async with self.admission.opened(), self.idempotency_store.sweeping():
                yield
        finally:
            await asyncio.to_thread(self.close)

    async def is_answering(self, timeout_seconds: float) -> bool:
        """Ask the ledger, and through it the database, for a key that nobody has."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._connection.resources.ledger.look_up_key(KeyLookup("readiness", "any"))
        except (TimeoutError, LedgerUnavailable):
            return False
        except KeyUnknown:
            pass
        return True

    def close(self) -> None:
        """Wait for running operations of the threads, and close the connections."""
        self.database_thread.close()
        self._request_thread.close()
        self._database.close()
