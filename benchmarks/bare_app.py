"""A minimal Starlette server for chat completions: the baseline of benchmarks.http.

Started as `python -m benchmarks.bare_app RECORDING`. Prints its address on standard output when it is ready. It decodes
each request and sends the responses in the file RECORDING, streamed or not, with the uvicorn settings of one of
dragoman's workers.
"""

import socket
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from dragoman.dialects.http import sse

_BACKLOG = 2048


class RecordedResponses(msgspec.Struct, frozen=True):
    """Recorded responses of dragoman."""

    completion: bytes
    frames: list[bytes]
    """The frames of the stream, which are sent one by one."""


class _ChatRequest(msgspec.Struct, frozen=True):
    messages: list[object]
    stream: bool = False


def build_app(recording: RecordedResponses) -> Starlette:
    """Build an app that sends the recorded responses."""
    decode = msgspec.json.Decoder(_ChatRequest).decode

    async def frames() -> AsyncGenerator[bytes]:
        for frame in recording.frames:
            yield frame

    async def chat(request: Request) -> Response:
        if decode(await request.body()).stream:
            return StreamingResponse(frames(), headers=sse.HEADERS)
        return Response(recording.completion, media_type="application/json")

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


def main() -> None:
    """Serve until terminated."""
    recording = msgspec.msgpack.decode(Path(sys.argv[1]).read_bytes(), type=RecordedResponses)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(_BACKLOG)
    host, port = listener.getsockname()
    print(f"http://{host}:{port}", flush=True)
    config = uvicorn.Config(build_app(recording), log_config=None, access_log=False, server_header=False)
    uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    main()
