"""The whole app in this process behind a real socket."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import uvicorn
from starlette.types import ASGIApp

from tests.support.timeouts import TEST_TIMEOUT_SECONDS


@contextlib.asynccontextmanager
async def serving(app: ASGIApp) -> AsyncGenerator[str]:
    """Serve the app on a free port of this loop and yield its URL: clients that leave are noticed by connections."""
    config = uvicorn.Config(app, port=0, log_config=None, lifespan="on", timeout_keep_alive=75)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        await task
