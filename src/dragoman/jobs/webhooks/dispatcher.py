"""Claim due messages and deliver them concurrently. Every process with webhooks runs one dispatcher."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import NamedTuple

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.thread import DatabaseThread
from dragoman.core import logs
from dragoman.core.background_tasks import RoundErrors
from dragoman.core.egress.urls import origin
from dragoman.core.errors import Overloaded
from dragoman.jobs.webhooks.message import DeliveryResult
from dragoman.jobs.webhooks.options import WebhookOptions
from dragoman.jobs.webhooks.sender import MAX_CONCURRENT_DELIVERIES, DeliveryAttempt, WebhookSender
from dragoman.jobs.webhooks.store import Delivery, WebhookStore

_log = logs.get_logger(__name__)


class _InFlight(NamedTuple):
    """A claimed delivery and the task that sends it."""

    delivery: Delivery
    sending: asyncio.Task[DeliveryAttempt]


class WebhookDispatcher:
    """Delivers messages while `run` is running."""

    def __init__(
        self,
        database: Database,
        sender: WebhookSender,
        options: WebhookOptions,
        on_result: Callable[[DeliveryResult], None],
    ) -> None:
        """`on_result` is called with the result of each attempt."""
        self._thread = DatabaseThread(database)
        self._store = WebhookStore(database, options.schedule, options.limits, options.root_path)
        self._sender = sender
        self._on_result = on_result
        self._poll_seconds = options.poll_seconds
        self._in_flight: dict[asyncio.Task[None], _InFlight] = {}
        """By the task that stores the result."""
        self._slot_freed = asyncio.Event()

    async def run(self) -> None:
        """Deliver messages until cancelled. Attempts in flight are then aborted and released for later."""
        try:
            async with self._sender.opened():
                try:
                    await self._send_loop()
                finally:
                    await self._abort()
        finally:
            await asyncio.to_thread(self._thread.close)

    async def _send_loop(self) -> None:
        errors = RoundErrors("webhook poll")
        while True:
            self._slot_freed.clear()
            try:
                await self._poll()
                errors.succeed()
            except Overloaded:  # Due messages stay due.
                pass
            except Exception:  # noqa: BLE001 - if this loop ended, no message would be sent any more
                errors.fail()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._slot_freed.wait()

    async def _poll(self) -> None:
        free = MAX_CONCURRENT_DELIVERIES - len(self._in_flight)
        if free and await self._thread.run(self._store.has_due):
            in_flight = [each.delivery for each in self._in_flight.values()]
            # A claim that came about has to be known, however late: each is one of the message's attempts.
            for delivery in await self._thread.run_slow(self._store.claim, free, in_flight):
                sending = asyncio.create_task(self._sender.send(delivery.url, delivery.message))
                task = asyncio.create_task(self._deliver(delivery, sending))
                self._in_flight[task] = _InFlight(delivery, sending)
                task.add_done_callback(self._discard)

    def _discard(self, task: asyncio.Task[None]) -> None:
        del self._in_flight[task]
        self._slot_freed.set()

    async def _deliver(self, delivery: Delivery, sending: asyncio.Task[DeliveryAttempt]) -> None:
        """Store the result of `sending`, or release it if it was cancelled. This task itself is never cancelled."""
        await asyncio.wait([sending])
        try:
            if sending.cancelled():
                await self._thread.run(self._store.release, delivery)
            else:
                await self._store_result(delivery, sending.result().result)
        except Overloaded:  # The message is sent again after its lease has expired.
            _log.warning("webhook_result_not_stored", message=delivery.message.id)
        except Exception:  # noqa: BLE001 - a defect affects this message only; nothing awaits the task
            _log.exception("webhook_failed_unexpectedly", message=delivery.message.id, receiver=origin(delivery.url))

    async def _store_result(self, delivery: Delivery, result: DeliveryResult) -> None:
        try:
            await self._thread.run(self._store.store_result, delivery, result)
        finally:
            self._on_result(result)

    async def _abort(self) -> None:
        for each in self._in_flight.values():
            each.sending.cancel()
        if self._in_flight:
            await asyncio.wait(list(self._in_flight))
