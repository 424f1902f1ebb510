from collections.abc import AsyncIterator

import httpx
import pytest

from dragoman.engines.echo import EchoEngine
from tests.support.dialects.scale_app import (
    CONTEXT,
    client_of,
    gateway_of,
)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(gateway_of(EchoEngine(context_length=CONTEXT))) as client:
        yield client
