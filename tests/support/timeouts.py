"""The limit of every wait in a test."""

import os
import time
from collections.abc import Callable

TEST_TIMEOUT_SECONDS = 120
"""Says nothing about speed: a wait fails only if its event never comes, however busy the machine is."""


def wait_until(condition: Callable[[], bool], expected: str = "the condition holds") -> None:
    """Ask again and again whether the condition holds, which another thread or process brings about."""
    ends_at = time.monotonic() + TEST_TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < ends_at, f"it does not come about that {expected}"
        os.sched_yield()
