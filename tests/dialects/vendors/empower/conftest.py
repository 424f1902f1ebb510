from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.dialects.empower_app import client_of, gateway_of
from tests.support.tiny_llama import write_adapter


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter folder."""
    write_adapter(tmp_path / "pirate.gguf", {})
    return tmp_path


@pytest.fixture
async def client(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(gateway_of(folder=folder)) as client:
        yield client
