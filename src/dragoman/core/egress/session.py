"""HTTP sessions for URLs that clients name: they connect to checked addresses only, and keep no state."""

import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver

from dragoman import __version__
from dragoman.core.egress.resolving import PublicResolver, SystemResolver
from dragoman.core.egress.urls import UrlRules
from dragoman.core.http_client import BoundedConnector


class EgressOptions(NamedTuple):
    """What a session may connect to."""

    rules: UrlRules
    max_connections: int
    resolver: AbstractResolver | None = None
    """None: the system's."""
    tls: ssl.SSLContext | None = None
    """None: trust the system's certificates."""


@contextlib.asynccontextmanager
async def open_session(options: EgressOptions) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session for the block.

    A name is resolved for each request, which connects to the addresses that were checked (DNS pinning). The session
    has no proxies, cookies or kept connections, and does not decompress. Check every URL by the rules before it is
    requested, and follow no redirects without that: an address in a URL is not resolved.
    """
    resolver = options.resolver or SystemResolver(options.max_connections)
    connector = BoundedConnector(
        resolver=resolver if options.rules.allow_private else PublicResolver(resolver),
        use_dns_cache=False,
        force_close=True,
        limit=options.max_connections,
        ssl=options.tls or True,
    )
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        headers={"user-agent": f"dragoman/{__version__}"},
    ) as session:
        yield session
    await resolver.close()


def failure_reason(error: Exception) -> str:
    """Describe an error without the URL, which the messages of some errors contain."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not trusted"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
