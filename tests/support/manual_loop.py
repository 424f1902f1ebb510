"""An event loop whose clock a test sets, so that no delay of the machine lets a time pass."""

import asyncio
import functools
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

from tests.support.timeouts import TEST_TIMEOUT_SECONDS

TestArguments = ParamSpec("TestArguments")

_TURNS = 20
"""Of the event loop, in which all that is due has run."""


class _PacedSelector(selectors.DefaultSelector):
    speed = 1.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout if timeout is None else timeout / self.speed)


class ManualLoop(asyncio.SelectorEventLoop):
    """Its time passes `speed` times as fast as the machine's, for which 0 stands still. Others' clocks do not.

    A time that stands still passes after TEST_TIMEOUT_SECONDS, so that no wait is endless.
    """

    def __init__(self, speed: float = 0.0) -> None:
        self._seconds = self._since = time.monotonic()
        self._speed, self._pacing = speed, _PacedSelector()
        super().__init__(self._pacing)
        self.pace(speed)

    def time(self) -> float:
        passed = time.monotonic() - self._since
        return self._seconds + (passed * self._speed if self._speed else max(0.0, passed - TEST_TIMEOUT_SECONDS))

    def pace(self, speed: float) -> None:
        """Change the speed. Delays of a busy machine grow by it too."""
        self._seconds, self._since, self._speed = self.time(), time.monotonic(), speed
        self._pacing.speed = speed or 1.0

    def advance(self, seconds: float) -> None:
        self._seconds += seconds


def on_manual_loop(
    test: Callable[TestArguments, Coroutine[Any, Any, None]],
) -> Callable[TestArguments, None]:
    """Run a test on a ManualLoop whose time stands still."""

    @functools.wraps(test)
    def run(*arguments: TestArguments.args, **named: TestArguments.kwargs) -> None:
        with asyncio.Runner(loop_factory=ManualLoop) as runner:
            runner.run(test(*arguments, **named))

    return run


def on_paced_loop(
    test: Callable[TestArguments, Coroutine[Any, Any, None]],
) -> Callable[TestArguments, None]:
    """Run a test on a ManualLoop whose time passes as the machine's does, until the test changes that."""

    @functools.wraps(test)
    def run(*arguments: TestArguments.args, **named: TestArguments.kwargs) -> None:
        with asyncio.Runner(loop_factory=functools.partial(ManualLoop, 1.0)) as runner:
            runner.run(test(*arguments, **named))

    return run


def pace(speed: float) -> None:
    """Change the speed of the running loop's time; 0: it stands still."""
    _running_loop().pace(speed)


async def advance(seconds: float) -> None:
    """Move the clock of the running loop, and let run what is due then."""
    _running_loop().advance(seconds)
    for _ in range(_TURNS):
        await asyncio.sleep(0)


def _running_loop() -> ManualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ManualLoop)
    return loop
