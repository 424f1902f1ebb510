"""An event loop whose clock runs faster than the machine's, for tests of what happens after many seconds."""

import asyncio
import selectors

SPEED = 4
"""How much faster. Delays of a busy machine grow by it too."""


class _FastSelector(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout if timeout is None else timeout / SPEED)


class FastLoop(asyncio.SelectorEventLoop):
    """Timers and timeouts of the loop pass SPEED times as fast. The clocks of threads and databases do not."""

    def __init__(self) -> None:
        super().__init__(_FastSelector())

    def time(self) -> float:
        return super().time() * SPEED
