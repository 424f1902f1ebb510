"""The deadline of a request, as its client sets it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from dragoman.core.errors import RequestTimedOut
from dragoman.core.events import Event


async def before_deadline(events: AsyncGenerator[Event], deadline: float) -> AsyncGenerator[Event]:
    """Yield the events that come before the deadline, in seconds of the event loop's clock. Raises RequestTimedOut.

    Attempts, waits between them and fallbacks all end with it.
    """
    async with contextlib.aclosing(events):
        while True:
            # Not around the loop: while the generator is suspended, its caller's own waits would be cancelled.
            try:
                async with asyncio.timeout_at(deadline):
                    event = await anext(events, None)
            except TimeoutError:
                raise RequestTimedOut("The answer was not complete in the time that its client gave") from None
            if event is None:
                return
            yield event
