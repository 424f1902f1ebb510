"""The event loops of the tests: asyncio's, and uvloop's, which the server uses. Their transports differ."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the tests of the HTTP client on both."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.name in ("test_http_client.py", "test_responses.py", "test_time_limits.py"):
        loops["uvloop"] = uvloop.new_event_loop
    return loops
