"""The whole app in this process, in front of echo engines."""

import contextlib
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import httpx

from dragoman.accounts.identifiers import key_digest
from dragoman.dialects.exchange import ExchangeOptions
from dragoman.engines.base import Engine
from dragoman.engines.echo import EchoEngine
from dragoman.engines.llama.adapter_files import LocalAdapterStore
from dragoman.gateway.access import Access
from dragoman.gateway.catalog import Catalog, Deployment
from dragoman.gateway.keys import KeyRing
from dragoman.server.app import App, build_app
from dragoman.server.settings import DialectName

KEY = "sk-0123456789abcdef"
LARGEST_BODY = 100_000


def echo_app(
    *,
    keys: Sequence[str] = (),
    hosts: dict[str, DialectName] | None = None,
    engine: Engine | None = None,
    proxies: Sequence[str] = (),
    adapter_folder: Path | None = None,
    access: Access | None = None,
) -> App:
    """The app over one deployment, `echo`, also called `acme/parrot`."""
    catalog = Catalog([Deployment("echo", ("acme/parrot",), engine or EchoEngine())])
    options = ExchangeOptions(LARGEST_BODY, keep_alive_seconds=15, proxies=frozenset(proxies))
    return build_app(
        catalog,
        options,
        metrics_directory=None,
        access=access or KeyRing(map(key_digest, keys)),
        hosts=hosts or {},
        store=LocalAdapterStore(adapter_folder, downloads=False),
    )


@contextlib.asynccontextmanager
async def client_of(app: App, host: str = "server") -> AsyncGenerator[httpx.AsyncClient]:
    """A client of the app, under one of its host names."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}") as client:
        yield client
