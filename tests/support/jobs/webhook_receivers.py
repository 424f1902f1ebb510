"""A web server that receives webhooks, checks their signatures and responds with given statuses."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from tests.support.timeouts import TEST_TIMEOUT_SECONDS

CERTIFICATE = Path(__file__).parents[2] / "data" / "receiver.pem"
CERTIFICATE_HOST = "receiver.test"
"""The host name in the certificate."""

SECRET_BYTES = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(SECRET_BYTES).decode()


class ReceivedWebhook(NamedTuple):
    """A request that the receiver got."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def content(self) -> Any:
        return json.loads(self.body)

    def assert_signed(self) -> None:
        """Assert that the signature is right, by the specification's rules for receivers."""
        content = f"{self.id}.{self.headers['webhook-timestamp']}.{self.body.decode()}"
        digest = hmac.new(SECRET_BYTES, content.encode(), hashlib.sha256).digest()
        assert f"v1,{base64.b64encode(digest).decode()}" in self.headers["webhook-signature"].split(" ")


class WebhookReceiver:
    """Responds with the given statuses in turn, and then with the last one for ever."""

    def __init__(self, *statuses: int, headers: Mapping[str, str] | None = None) -> None:
        self.received: list[ReceivedWebhook] = []
        self.port = 0
        self.may_respond = asyncio.Event()
        """Requests wait until this is set."""
        self.may_respond.set()
        self._statuses = list(statuses or (200,))
        self._headers = headers or {}
        self._received_more = asyncio.Condition()

    async def wait_for(self, count: int) -> list[ReceivedWebhook]:
        """Wait until `count` requests were received, with a time limit. Returns all of them."""
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS), self._received_more:
            await self._received_more.wait_for(lambda: len(self.received) >= count)
        return self.received

    def url(self, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}/hooks?token=secret"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        async with self._received_more:
            self.received.append(ReceivedWebhook(request.path_qs, request.headers, await request.read()))
            self._received_more.notify_all()
        await self.may_respond.wait()
        status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
        return web.Response(status=status, headers=self._headers, body=b"thank you")


@contextlib.asynccontextmanager
async def running_receiver(receiver: WebhookReceiver, *, tls: bool = False) -> AsyncIterator[WebhookReceiver]:
    """Run the receiver on a port of this machine."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    context = None
    if tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(CERTIFICATE)
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    receiver.port = runner.addresses[0][1]
    try:
        yield receiver
    finally:
        receiver.may_respond.set()
        await runner.cleanup()


class StaticResolver(AbstractResolver):
    """Resolves these names only. Each look-up of a name returns the next of its addresses."""

    def __init__(self, **addresses: list[str]) -> None:
        self._addresses: dict[str, Iterator[str]] = {
            name.replace("_", "."): iter(listed) for name, listed in addresses.items()
        }

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        if host not in self._addresses:
            raise OSError(None, "no such name")
        address = next(self._addresses[host])
        return [ResolveResult(hostname=host, host=address, port=port, family=0, proto=0, flags=0)]

    async def close(self) -> None: ...
