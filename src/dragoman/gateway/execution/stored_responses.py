"""Responses to requests with an Idempotency-Key, stored in the accounts' database."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator

from dragoman.accounts.database.idempotency_keys import DEFAULT_MAX_BYTES, ROW_BYTES, IdempotencyKeyTable
from dragoman.accounts.database.thread import DatabaseThread
from dragoman.core import logs
from dragoman.core.background_tasks import repeat
from dragoman.core.errors import Overloaded
from dragoman.core.idempotency import Acquired, IdempotencyState, IdempotentRequest, StoredResponse

MAX_RESPONSE_BYTES = 1024 * 1024
"""Bytes of a stored body. Bodies are stored for a day."""

SWEEP_INTERVAL_SECONDS = 60.0

_SWEEPS_PER_LIMIT = 16
"""The limit of all responses may be exceeded by this part of it before the next sweep."""

_log = logs.get_logger(__name__)


class DatabaseIdempotencyStore:
    """Implements core.idempotency.IdempotencyStore. All processes that use the database share its responses."""

    def __init__(
        self,
        thread: DatabaseThread,
        process_id: int,
        *,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        """Claims belong to `process_id`, see accounts.database.idempotency_keys.

        `max_response_bytes` is the limit for one body, `max_bytes` the one for all responses together.
        """
        self._thread = thread
        self._table = IdempotencyKeyTable(thread.database, process_id, max_bytes)
        self._max_response_bytes = max_response_bytes
        self._max_unswept_bytes = max_bytes // _SWEEPS_PER_LIMIT
        self._unswept_bytes = 0
        """Bytes stored since the last sweep."""
        self._must_sweep = asyncio.Event()
        self._claimed_tokens: set[int] = set()
        self._release_tasks: set[asyncio.Task[None]] = set()

    @property
    def max_response_bytes(self) -> int:
        return self._max_response_bytes

    async def claim(self, request: IdempotentRequest) -> IdempotencyState:
        token = secrets.randbits(63)
        self._claimed_tokens.add(token)
        state: IdempotencyState | None = None
        try:
            state = await self._thread.run(self._table.claim, request, token)
        finally:
            if not isinstance(state, Acquired):
                self._claimed_tokens.discard(token)
        return state

    async def store(self, request: IdempotentRequest, claim: Acquired, response: StoredResponse | None) -> None:
        try:
            await self._thread.run(self._table.store, request, claim.token, response)
            self._claimed_tokens.discard(claim.token)
            self._unswept_bytes += ROW_BYTES + (0 if response is None else len(response.body))
            if self._unswept_bytes > self._max_unswept_bytes:
                self._must_sweep.set()
        except Overloaded as error:
            # The client has waited for the response, not for its storage.
            _log.warning("idempotent_response_not_stored", error=error.message)

    def release(self, request: IdempotentRequest, claim: Acquired) -> None:
        if claim.token not in self._claimed_tokens:
            return  # A response was stored.
        self._claimed_tokens.discard(claim.token)
        task = asyncio.create_task(self._release(request, claim))
        self._release_tasks.add(task)
        task.add_done_callback(self._release_tasks.discard)

    @contextlib.asynccontextmanager
    async def sweeping(self) -> AsyncIterator[None]:
        """Within the block, regularly delete expired responses and orphaned claims."""
        rounds = repeat("sweep of stored responses", self.sweep, SWEEP_INTERVAL_SECONDS, early=self._must_sweep)
        sweeper = asyncio.create_task(rounds)
        try:
            yield
        finally:
            sweeper.cancel()
            await asyncio.wait([sweeper, *self._release_tasks])

    async def sweep(self) -> int:
        """Delete them once and return how many there were. Raises Overloaded."""
        # The thread works in order: a token that is not in the set yet claims after the sweep.
        self._unswept_bytes = 0
        self._must_sweep.clear()
        return await self._thread.run(self._table.sweep, frozenset(self._claimed_tokens))

    async def _release(self, request: IdempotentRequest, claim: Acquired) -> None:
        # The sweep releases claims that are held no longer.
        with contextlib.suppress(Overloaded):
            await self._thread.run(self._table.release, request, claim.token)
