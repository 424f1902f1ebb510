"""Hedging: a second attempt beside one whose first token is late. Whichever begins to answer first goes on alone."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Protocol, TypeVar

from dragoman.gateway.routing.attempts import RoutedAttempts


class BegunAnswer(Protocol):
    """An answer that has begun."""

    async def abandon(self) -> None:
        """End its attempt without a result."""
        ...


AnswerT = TypeVar("AnswerT", bound=BegunAnswer)

Open = Callable[[RoutedAttempts], Coroutine[None, None, AnswerT]]
"""Has a request answered by these attempts. Returns in the step in which the first token arrives."""


async def hedged(attempts: RoutedAttempts, open_answer: Open[AnswerT], hedge_after: float) -> AnswerT:
    """Return the answer of the attempts, or that of one more which begins sooner.

    That one is made if there is no token after `hedge_after` seconds and the router allows it. The slower one is
    cancelled before its second token. Raises what the attempts raise, if the other one fails too.
    """
    begun: list[asyncio.Task[AnswerT]] = []
    branches = [_branch(open_answer, attempts, begun)]
    winner: asyncio.Task[AnswerT] | None = None
    try:
        await asyncio.wait(branches, timeout=hedge_after)
        if not branches[0].done() and (hedge := attempts.hedge()) is not None:
            branches.append(_branch(open_answer, hedge, begun))
        await _wait_for_one(branches, begun)
        # Without any, both have failed, and the error of the first says why.
        first = begun[0] if begun else branches[0]
        await _close(branches, but=first)
        winner = first
        return first.result()
    finally:
        await _close(branches, but=winner)


def _branch(
    open_answer: Open[AnswerT], attempts: RoutedAttempts, begun: list[asyncio.Task[AnswerT]]
) -> asyncio.Task[AnswerT]:
    """Start one of the attempts that race."""

    async def begin() -> AnswerT:
        opened = await open_answer(attempts)
        begun.append(branch)
        return opened

    branch = asyncio.create_task(begin())
    return branch


async def _close(branches: list[asyncio.Task[AnswerT]], *, but: asyncio.Task[AnswerT] | None) -> None:
    """Cancel the others, and end their attempts."""
    for branch in branches:
        if branch is but:
            continue
        branch.cancel()
        [opened] = await asyncio.gather(branch, return_exceptions=True)
        if not isinstance(opened, BaseException):
            await opened.abandon()


async def _wait_for_one(branches: list[asyncio.Task[AnswerT]], begun: list[asyncio.Task[AnswerT]]) -> None:
    """Wait until one has begun, or until all have failed."""
    waiting = set(branches)
    while waiting and not begun:
        _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
