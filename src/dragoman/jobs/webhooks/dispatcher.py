"""One process's part in delivering the messages: it claims those that are due, and sends several at once."""

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from dragoman.accounts.database import Database
from dragoman.accounts.database_thread import DatabaseThread
from dragoman.core.errors import Overloaded
from dragoman.jobs.webhooks.message import Result
from dragoman.jobs.webhooks.options import WebhookOptions
from dragoman.jobs.webhooks.sender import MOST_AT_ONCE, Attempt, Sender
from dragoman.jobs.webhooks.store import Delivery, WebhookStore
from dragoman.jobs.webhooks.urls import origin

_log = structlog.get_logger(__name__)


class Dispatcher:
    """To be used by `run`."""

    def __init__(
        self, database: Database, sender: Sender, options: WebhookOptions, sent: Callable[[Result], None]
    ) -> None:
        """`sent` is told how each try has ended."""
        self._thread = DatabaseThread(database)
        self._store = WebhookStore(database, options.schedule, options.share)
        self._sender = sender
        self._sent = sent
        self._poll_seconds = options.poll_seconds
        self._under_way: dict[asyncio.Task[None], Delivery] = {}
        self._sending: set[asyncio.Task[Attempt]] = set()
        self._freed = asyncio.Event()

    async def run(self) -> None:
        """Until it is cancelled; then tries under way are broken off, and left to others or for later."""
        try:
            async with self._sender.opened():
                try:
                    await self._send_for_ever()
                finally:
                    await self._break_off()
        finally:
            await asyncio.to_thread(self._thread.close)

    async def _send_for_ever(self) -> None:
        while True:
            self._freed.clear()
            try:
                await self._look()
            except Overloaded:  # What is due stays so.
                pass
            except Exception:  # noqa: BLE001 - without this loop no message would be sent any more
                _log.exception("webhook_look_failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._freed.wait()

    async def _look(self) -> None:
        free = MOST_AT_ONCE - len(self._under_way)
        if free and await self._thread.run(self._store.any_due):
            for delivery in await self._thread.run(self._store.claim, free, tuple(self._under_way.values())):
                sending = asyncio.create_task(self._sender.send(delivery.url, delivery.message))
                self._sending.add(sending)
                task = asyncio.create_task(self._deliver(delivery, sending))
                self._under_way[task] = delivery
                task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        self._freed.set()

    async def _deliver(self, delivery: Delivery, sending: asyncio.Task[Attempt]) -> None:
        """Never cancelled, though the sending may be: how it ended is stored also at the end of the process."""
        await asyncio.wait([sending])
        self._sending.discard(sending)
        try:
            if sending.cancelled():
                await self._thread.run(self._store.give_back, delivery)
            else:
                await self._end(delivery, sending.result().result)
        except Overloaded:  # It is sent again once its lease is out.
            _log.warning("webhook_end_not_stored", message=delivery.message.id)
        except Exception:  # noqa: BLE001 - a defect is for this message; nobody waits for the task
            _log.exception("webhook_failed", message=delivery.message.id, receiver=origin(delivery.url))

    async def _end(self, delivery: Delivery, result: Result) -> None:
        try:
            await self._thread.run(self._store.end, delivery, result)
        finally:
            self._sent(result)

    async def _break_off(self) -> None:
        for sending in self._sending:
            sending.cancel()
        if self._under_way:
            await asyncio.wait(list(self._under_way))
