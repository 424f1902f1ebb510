"""An event loop whose clock a test moves, so that no delay of the machine lets a time pass."""

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

from tests.support.timeouts import TEST_TIMEOUT_SECONDS

TestArguments = ParamSpec("TestArguments")

_TURNS = 20
"""Of the event loop, in which all that is due has run."""


class ManualLoop(asyncio.SelectorEventLoop):
    """Its time stands still until a test moves it. After TEST_TIMEOUT_SECONDS it passes, so that no wait is endless."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds = 1_000.0
        self._runs_from = time.monotonic() + TEST_TIMEOUT_SECONDS

    def time(self) -> float:
        return self._seconds + max(0.0, time.monotonic() - self._runs_from)

    def advance(self, seconds: float) -> None:
        self._seconds += seconds


def on_manual_loop(
    test: Callable[TestArguments, Coroutine[Any, Any, None]],
) -> Callable[TestArguments, None]:
    """Run a test on a ManualLoop."""

    @functools.wraps(test)
    def run(*arguments: TestArguments.args, **named: TestArguments.kwargs) -> None:
        with asyncio.Runner(loop_factory=ManualLoop) as runner:
            runner.run(test(*arguments, **named))

    return run


async def advance(seconds: float) -> None:
    """Move the clock of the running loop, and let run what is due then."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ManualLoop)
    loop.advance(seconds)
    for _ in range(_TURNS):
        await asyncio.sleep(0)
