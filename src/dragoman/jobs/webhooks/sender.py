"""One try to deliver one message, over a connection that leads nowhere but where it may."""

import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver

from dragoman import __version__
from dragoman.jobs.webhooks.addresses import AddressRefused
from dragoman.jobs.webhooks.message import Message, Result, headers
from dragoman.jobs.webhooks.resolving import PublicResolver, SystemResolver
from dragoman.jobs.webhooks.urls import Rules, UrlRefused, origin

TIMEOUT_SECONDS = 10.0
"""From looking the name up to the head of the response."""

MOST_AT_ONCE = 64
"""Messages that a process is sending."""

_GONE = 410

_log = structlog.get_logger(__name__)


class Attempt(NamedTuple):
    """What became of a try."""

    result: Result
    reason: str = ""
    """For people; without the URL."""


class Sender:
    """Signs and sends. Use it within `opened`."""

    def __init__(
        self,
        secret: bytes,
        rules: Rules,
        *,
        resolver: AbstractResolver | None = None,
        tls: ssl.SSLContext | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """`resolver` looks names up, None: the system does. `tls` None trusts the system's certificates."""
        self._secret = secret
        self._rules = rules
        self._resolver = resolver
        self._tls = tls
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._session: aiohttp.ClientSession | None = None

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Within the block messages can be sent."""
        resolver = self._resolver or SystemResolver(MOST_AT_ONCE)
        connector = aiohttp.TCPConnector(
            resolver=resolver if self._rules.allow_private else PublicResolver(resolver),
            use_dns_cache=False,
            force_close=True,
            limit=MOST_AT_ONCE,
            ssl=self._tls or True,
        )
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers={"user-agent": f"dragoman/{__version__}"},
        ) as self._session:
            yield
        await resolver.close()

    async def send(self, url: str, message: Message) -> Attempt:
        """Try once. Redirects are not followed, and of the response only its status is read."""
        assert self._session is not None, "opened"
        try:
            target = self._rules.check(url)
            signed = headers(message, self._secret, int(time.time()))
            response = await self._session.post(target, data=message.body, headers=signed, allow_redirects=False)
            response.close()
        except (UrlRefused, AddressRefused) as error:
            attempt = Attempt("refused", str(error))
        except TimeoutError:
            attempt = Attempt("failed", f"no response within {self._timeout.total:g} seconds")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            attempt = Attempt("failed", _reason(error))
        else:
            attempt = _by_status(response.status)
        if attempt.result != "delivered":
            _log.info("webhook_not_delivered", message=message.id, receiver=origin(url), **attempt._asdict())
        return attempt


def _by_status(status: int) -> Attempt:
    if 200 <= status < 300:
        return Attempt("delivered")
    return Attempt("gone" if status == _GONE else "failed", f"status {status}")


def _reason(error: Exception) -> str:
    """In words that cannot hold the URL, which some errors repeat."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not trusted"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
