"""The whole app in this process, over an echo engine."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

import httpx
from starlette.types import Message

from dragoman.core.addresses import AddressSet
from dragoman.core.context import key_digest
from dragoman.core.responses import ResponseStore
from dragoman.dialects.http.context import HttpOptions
from dragoman.dialects.registry import DialectName
from dragoman.engines.base import Engine
from dragoman.engines.echo import EchoEngine
from dragoman.engines.llama.weights.adapter_files import LocalAdapterStore
from dragoman.gateway.auth.static_keys import StaticKeyAuthenticator
from dragoman.gateway.remote_images import ImageFetcher
from dragoman.gateway.routing.catalog import Catalog, Deployment
from dragoman.jobs.service.queue import JobQueue
from dragoman.server.accounting import AccountingServices
from dragoman.server.app import App, build_app
from dragoman.server.origins import SERVE_ALL, OriginPolicy

KEY = "sk-0123456789abcdef"
MAX_BODY_BYTES = 100_000
REASONING_KEY = bytes(range(64))


def echo_app(
    *,
    keys: Sequence[str] = (),
    hosts: dict[str, DialectName] | None = None,
    engine: Engine | Deployment | None = None,
    trusted_proxies: Sequence[str] = (),
    adapter_dir: Path | None = None,
    accounting: AccountingServices | None = None,
    admin_keys: Mapping[str, str] | None = None,
    queue: JobQueue | None = None,
    keep_alive_seconds: float = 15,
    origin_policy: OriginPolicy = SERVE_ALL,
    public_docs: bool = True,
    root_path: str = "",
    max_body_bytes: int = MAX_BODY_BYTES,
    v1_dialect: str = "infermatic",
    response_store: ResponseStore | None = None,
    images: ImageFetcher | None = None,
) -> App:
    """Build the app over one deployment, `echo` with the alias `acme/parrot`. `admin_keys` are keys → labels.

    Requests need one of `keys`, or with `accounting` the key of an account.
    """
    if not isinstance(engine, Deployment):
        engine = Deployment.of("echo", ("acme/parrot",), engine or EchoEngine())
    catalog = Catalog([engine])
    options = HttpOptions(
        max_body_bytes=max_body_bytes,
        keep_alive_seconds=keep_alive_seconds,
        trusted_proxies=AddressSet.parse(trusted_proxies),
        v1_dialect=v1_dialect,
        public_docs=public_docs,
        root_path=root_path,
        response_store=response_store,
        reasoning_key=REASONING_KEY,
        fetches_images=images is not None,
    )
    return build_app(
        catalog,
        options,
        metrics_directory=None,
        keys=StaticKeyAuthenticator(map(key_digest, keys)),
        hosts=hosts or {},
        adapter_store=LocalAdapterStore(adapter_dir, downloads=False),
        accounting=accounting,
        admin_keys=StaticKeyAuthenticator({key_digest(key): label for key, label in (admin_keys or {}).items()}),
        queue=queue,
        origin_policy=origin_policy,
        images=images,
    )


@contextlib.asynccontextmanager
async def running_app(app: App) -> AsyncGenerator[None]:
    """Start the app, and stop it at the end of the block."""
    received: asyncio.Queue[Message] = asyncio.Queue(2)
    sent: asyncio.Queue[Message] = asyncio.Queue(2)
    lifespan_task = asyncio.create_task(app({"type": "lifespan"}, received.get, sent.put))
    await received.put({"type": "lifespan.startup"})
    assert (await sent.get())["type"] == "lifespan.startup.complete"
    try:
        yield
    finally:
        await received.put({"type": "lifespan.shutdown"})
        assert (await sent.get())["type"] == "lifespan.shutdown.complete"
        await lifespan_task


@contextlib.asynccontextmanager
async def client_of(app: App, host: str = "server", *, key: str | None = None) -> AsyncGenerator[httpx.AsyncClient]:
    """Open a client of the app under one of its host names, with a key if one is given."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}", headers=headers) as client:
        yield client
