"""Answers to requests with an Idempotency-Key, kept in the accounts' database. Implements core's AnswerBook."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator

import structlog

from dragoman.accounts.database_thread import DatabaseThread
from dragoman.accounts.idempotency import IdempotencyStore
from dragoman.core.errors import Overloaded
from dragoman.core.idempotency import Attempt, Claimed, KeptAnswer, Standing

LARGEST_ANSWER = 1024 * 1024
"""Bytes of a body that is kept for a day."""

SWEEP_SECONDS = 60.0

_log = structlog.get_logger(__name__)


class DatabaseAnswers:
    """One process's answers; all processes that use the database see the same."""

    def __init__(self, thread: DatabaseThread, process_id: int, *, largest_answer: int = LARGEST_ANSWER) -> None:
        """Claims are made in the name of `process_id`, see accounts.idempotency."""
        self._thread = thread
        self._store = IdempotencyStore(thread.database, process_id)
        self._largest_answer = largest_answer
        self._held: set[int] = set()
        self._releases: set[asyncio.Task[None]] = set()

    @property
    def largest_answer(self) -> int:
        return self._largest_answer

    async def claim(self, attempt: Attempt) -> Standing:
        token = secrets.randbits(63)
        self._held.add(token)
        standing: Standing | None = None
        try:
            standing = await self._thread.run(self._store.claim, attempt, token)
        finally:
            if not isinstance(standing, Claimed):
                self._held.discard(token)
        return standing

    async def keep(self, attempt: Attempt, claim: Claimed, answer: KeptAnswer | None) -> None:
        try:
            await self._thread.run(self._store.keep, attempt, claim.token, answer)
            self._held.discard(claim.token)
        except Overloaded as error:
            # The client has waited for the answer, not for its being kept.
            _log.warning("answer_not_kept", error=error.message)

    def release(self, attempt: Attempt, claim: Claimed) -> None:
        if claim.token not in self._held:
            return  # An answer was kept.
        self._held.discard(claim.token)
        task = asyncio.create_task(self._release(attempt, claim))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    @contextlib.asynccontextmanager
    async def swept(self) -> AsyncIterator[None]:
        """Within the block, delete now and then what was kept long enough and what is claimed for nobody."""
        sweeping = asyncio.create_task(self._sweep_for_ever())
        try:
            yield
        finally:
            sweeping.cancel()
            await asyncio.wait([sweeping, *self._releases])

    async def sweep(self) -> int:
        """Do so once; how many that were. Raises Overloaded."""
        # The thread works in order: what is not held yet is claimed after the sweep.
        return await self._thread.run(self._store.sweep, frozenset(self._held))

    async def _release(self, attempt: Attempt, claim: Claimed) -> None:
        # The sweep releases what nobody holds any more.
        with contextlib.suppress(Overloaded):
            await self._thread.run(self._store.release, attempt, claim.token)

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            with contextlib.suppress(Overloaded):
                await self.sweep()
