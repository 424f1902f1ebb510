"""Send a message once, connecting only to allowed addresses."""

import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver

from dragoman.core import logs
from dragoman.core.egress.addresses import AddressRefused
from dragoman.core.egress.session import EgressOptions, failure_reason, open_session
from dragoman.core.egress.urls import UrlRefused, UrlRules, origin
from dragoman.core.http_client import ResponseHeadTooLarge
from dragoman.jobs.webhooks.message import DeliveryResult, WebhookMessage, signed_headers

TIMEOUT_SECONDS = 10.0
"""From the name look-up to the head of the response."""

MAX_CONCURRENT_DELIVERIES = 64
"""Messages that a process sends concurrently."""

_GONE = 410

_log = logs.get_logger(__name__)


class DeliveryAttempt(NamedTuple):
    """The result of one attempt to send a message."""

    result: DeliveryResult
    reason: str = ""
    """Human-readable; does not contain the URL."""


class WebhookSender:
    """Signs and sends messages. Use it within `opened`."""

    def __init__(
        self,
        secret: bytes,
        rules: UrlRules,
        *,
        resolver: AbstractResolver | None = None,
        tls: ssl.SSLContext | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """`resolver` None: the system's resolver. `tls` None: trust the system's certificates."""
        self._secret = secret
        self._rules = rules
        self._resolver = resolver
        self._tls = tls
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._session: aiohttp.ClientSession | None = None

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Allow `send` within the block."""
        options = EgressOptions(self._rules, MAX_CONCURRENT_DELIVERIES, self._resolver, self._tls)
        async with open_session(options) as self._session:
            yield

    async def send(self, url: str, message: WebhookMessage) -> DeliveryAttempt:
        """Send the message once. Redirects are not followed, and only the status of the response is read."""
        assert self._session is not None, "opened"
        try:
            target = self._rules.check(url)
            signed = signed_headers(message, self._secret, int(time.time()))
            response = await self._session.post(
                target, data=message.body, headers=signed, allow_redirects=False, timeout=self._timeout
            )
            response.close()
        except (UrlRefused, AddressRefused) as error:
            attempt = DeliveryAttempt("refused", str(error))
        except TimeoutError:
            attempt = DeliveryAttempt("failed", f"no response within {self._timeout.total:g} seconds")
        except ResponseHeadTooLarge as error:
            attempt = DeliveryAttempt("failed", str(error))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            attempt = DeliveryAttempt("failed", failure_reason(error))
        else:
            attempt = _attempt_of_status(response.status)
        if attempt.result != "delivered":
            _log.info("webhook_delivery_failed", message=message.id, receiver=origin(url), **attempt._asdict())
        return attempt


def _attempt_of_status(status: int) -> DeliveryAttempt:
    if 200 <= status < 300:
        return DeliveryAttempt("delivered")
    return DeliveryAttempt("gone" if status == _GONE else "failed", f"status {status}")
