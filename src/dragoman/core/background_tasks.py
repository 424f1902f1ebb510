"""Loops that go on whatever happens in one of their rounds."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from dragoman.core import logs
from dragoman.core.errors import Overloaded

_log = logs.get_logger(__name__)


class RoundErrors:
    """Logs the errors of a loop's rounds: the first of consecutive ones only."""

    def __init__(self, task: str) -> None:
        """`task` names the loop in the log."""
        self._task = task
        self._failing = False

    def succeed(self) -> None:
        """Note that a round has ended well."""
        self._failing = False

    def fail(self) -> None:
        """Note the exception that is being handled. Overloaded is not logged: an outage has a log line of its own."""
        if not self._failing:
            self._failing = True
            _log.exception("background_task_failed", task=self._task)


async def repeat(
    task: str, run_round: Callable[[], Awaitable[object]], pause_seconds: float, *, early: asyncio.Event | None = None
) -> None:
    """Pause and run a round, again and again, until cancelled. A round that raises ends nothing but itself.

    `early` ends a pause. The round clears it.
    """
    errors = RoundErrors(task)
    while True:
        await _pause(pause_seconds, early)
        try:
            await run_round()
        except Overloaded:
            continue
        except Exception:  # noqa: BLE001 - if this loop ended, nobody would notice what is not done any more
            errors.fail()
        else:
            errors.succeed()


async def _pause(seconds: float, early: asyncio.Event | None) -> None:
    if early is None:
        await asyncio.sleep(seconds)
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await early.wait()
