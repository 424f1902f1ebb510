"""A web server with images, which misbehaves on some of its paths, and an echo engine that shows what it gets."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator

import msgspec
from aiohttp import web

from dragoman.core.events import Event
from dragoman.core.request import ChatPrompt, GenerationRequest, ImagePart, Message, Prompt, TextPart
from dragoman.engines.echo import EchoEngine
from tests.support.jobs.webhook_receivers import CERTIFICATE

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
"""Begins as the type of file does. Nothing here decodes it."""


class ImageServer:
    """Serves PNG at /image, and other answers at other paths."""

    def __init__(self, elsewhere: str = "") -> None:
        """`elsewhere` is where /elsewhere redirects to."""
        self.paths: list[str] = []
        """Of all requests."""
        self.port = 0
        self._elsewhere = elsewhere
        self._closing = asyncio.Event()

    def url(self, path: str = "image", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}/{path}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path)
        name = request.path.removeprefix("/")
        if name.isdecimal():  # that many redirects
            location = "/image" if name == "1" else f"/{int(name) - 1}"
            return web.Response(status=302, headers={"location": location})
        match name:
            case "elsewhere":
                return web.Response(status=307, headers={"location": self._elsewhere})
            case "missing":
                return web.Response(status=404)
            case "page":
                return web.Response(body=PNG, content_type="text/html")
            case "text":
                return web.Response(body=b"root:x:0:0", content_type="image/png")
            case "untyped":
                return web.Response(body=PNG, content_type="application/octet-stream")
            case "compressed":
                return web.Response(body=PNG, content_type="image/png", headers={"content-encoding": "gzip"})
            case "large":
                return web.Response(body=PNG + bytes(1000), content_type="image/png")
            case "endless" | "slow":
                return await self._never_end(request, pauses=name == "slow")
        return web.Response(body=PNG, content_type="image/png")

    async def _never_end(self, request: web.Request, *, pauses: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "image/png"})
        await response.prepare(request)
        await response.write(PNG)
        with contextlib.suppress(OSError):
            while not self._closing.is_set():
                if pauses:
                    await self._closing.wait()
                else:
                    await response.write(bytes(10_000))
        return response

    @contextlib.asynccontextmanager
    async def running(self, *, tls: bool = False) -> AsyncIterator["ImageServer"]:
        """Run on a port of this machine."""
        app = web.Application()
        app.router.add_get("/{path:.*}", self.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        context = None
        if tls:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(CERTIFICATE)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            self._closing.set()
            await runner.cleanup()


class SeeingEcho(EchoEngine):
    """Takes images, and repeats their addresses with the text."""

    capabilities = EchoEngine.capabilities | {"images"}

    async def count_tokens(self, prompt: Prompt) -> int:
        return await super().count_tokens(_with_addresses(prompt))

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        async for event in super().generate(msgspec.structs.replace(request, prompt=_with_addresses(request.prompt))):
            yield event


def _with_addresses(prompt: Prompt) -> Prompt:
    if not isinstance(prompt, ChatPrompt):
        return prompt
    return msgspec.structs.replace(prompt, messages=tuple(map(_with_text, prompt.messages)))


def _with_text(message: Message) -> Message:
    if isinstance(message.content, str):
        return message
    text = "".join(part.text if isinstance(part, TextPart) else part.url for part in message.content)
    assert any(isinstance(part, ImagePart) for part in message.content)
    return msgspec.structs.replace(message, content=text)
