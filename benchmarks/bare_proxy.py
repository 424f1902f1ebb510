"""A minimal proxy of chat completions, Starlette and aiohttp: the baseline of benchmarks.upstream.

Started as `python -m benchmarks.bare_proxy UPSTREAMS`, a JSON object of URLs by model. Prints its address on standard
output when it is ready. It decodes each request to know its upstream and whether it is streamed, sends it on as it is,
and passes on the bytes of the response as they arrive. It counts, checks and translates nothing. It runs under the
uvicorn settings of one of dragoman's workers. aiohttp is not among dragoman's requirements.
"""

import contextlib
import importlib
import socket
import sys
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

_BACKLOG = 2048
_HEADERS = {"content-type": "application/json"}


class _ChatRequest(msgspec.Struct, frozen=True):
    model: str
    stream: bool = False


class BareProxy:
    """The handler and its HTTP client."""

    def __init__(self, upstreams: dict[str, str]) -> None:
        self._urls = {model: f"{url}/v1/chat/completions" for model, url in upstreams.items()}
        self._decode = msgspec.json.Decoder(_ChatRequest).decode
        self._client: Any = None

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncGenerator[None]:
        """Keep the client open while the app runs."""
        aiohttp = importlib.import_module("aiohttp")
        async with aiohttp.ClientSession() as self._client:
            yield

    async def chat(self, request: Request) -> Response:
        """Answer as the upstream does."""
        body = await request.body()
        decoded = self._decode(body)
        pending = self._client.post(self._urls[decoded.model], data=body, headers=_HEADERS)
        if decoded.stream:
            response = await pending.__aenter__()
            return StreamingResponse(_pieces(response), response.status, media_type=response.content_type)
        async with pending as response:
            return Response(await response.read(), response.status, media_type=response.content_type)


async def _pieces(response: Any) -> AsyncGenerator[bytes]:
    async with response:
        async for piece in response.content.iter_any():
            yield piece


def main() -> None:
    """Serve until terminated."""
    proxy = BareProxy(msgspec.json.decode(sys.argv[1], type=dict[str, str]))
    app = Starlette(routes=[Route("/v1/chat/completions", proxy.chat, methods=["POST"])], lifespan=proxy.lifespan)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(_BACKLOG)
    host, port = listener.getsockname()
    print(f"http://{host}:{port}", flush=True)
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False)
    uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    main()
