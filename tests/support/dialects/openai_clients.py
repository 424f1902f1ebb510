"""OpenAI's own client of an app in this process."""

from collections.abc import AsyncIterator

import httpx2
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from dragoman.server.app import App


async def openai_client(
    app: App, path: str = "/v1", host: str = "server", key: str = "sk-none"
) -> AsyncIterator[AsyncOpenAI]:
    """Yield one client, whose base address ends with `path`."""
    async with DefaultAsyncHttpxClient(transport=httpx2.ASGITransport(app)) as http:
        yield AsyncOpenAI(base_url=f"http://{host}{path}", api_key=key, http_client=http, max_retries=0)
