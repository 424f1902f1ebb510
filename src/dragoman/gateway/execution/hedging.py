"""Hedging: a second attempt beside one whose first token is late. Whichever begins to answer first goes on alone."""

import asyncio
from collections.abc import AsyncGenerator, Callable

from dragoman.core.events import Event
from dragoman.gateway.routing.attempts import RoutedAttempts

Answer = Callable[[RoutedAttempts], AsyncGenerator[Event]]
"""Answers a request by these attempts. Its first event comes in the step in which the first token arrives."""


class _Branch:
    """One of the answers that race."""

    def __init__(self, events: AsyncGenerator[Event], begun: "list[_Branch]") -> None:
        self.events = events
        self.first_event = asyncio.create_task(self._begin(begun))

    async def close(self) -> None:
        """Cancel the attempt."""
        self.first_event.cancel()
        await asyncio.gather(self.first_event, return_exceptions=True)
        await self.events.aclose()

    async def _begin(self, begun: "list[_Branch]") -> Event | None:
        event = await anext(self.events, None)
        begun.append(self)
        return event


async def hedged(attempts: RoutedAttempts, answer: Answer, hedge_after: float) -> AsyncGenerator[Event]:
    """Answer by the attempts, or by one more if there is no token after `hedge_after` seconds and the router allows it.

    The slower one is cancelled before its second token. Raises what the attempts raise, if the other one fails too.
    """
    begun: list[_Branch] = []
    branches = [_Branch(answer(attempts), begun)]
    try:
        await asyncio.wait([branches[0].first_event], timeout=hedge_after)
        if not branches[0].first_event.done() and (hedge := attempts.hedge()) is not None:
            branches.append(_Branch(answer(hedge), begun))
        await _wait_for_one(branches, begun)
        # Without any, both have failed, and the error of the first says why.
        winner = begun[0] if begun else branches[0]
        for branch in branches:
            if branch is not winner:
                await branch.close()
        if (first_event := winner.first_event.result()) is not None:
            yield first_event
        async for event in winner.events:
            yield event
    finally:
        for branch in branches:
            await branch.close()


async def _wait_for_one(branches: list[_Branch], begun: list[_Branch]) -> None:
    """Wait until one has begun, or until all have failed."""
    waiting = {branch.first_event for branch in branches}
    while waiting and not begun:
        _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
