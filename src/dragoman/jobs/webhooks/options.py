"""Options of webhooks: the retry schedule and the limits of deliveries."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from dragoman.core.egress.urls import UrlRefused, UrlRules
from dragoman.core.errors import BadRequest

DELIVERY_LEASE_SECONDS = 30
"""A delivery attempt without a result counts as failed after this time. Longer than any attempt takes."""


class RetrySchedule(NamedTuple):
    """When a message is sent again after a failed attempt. The delays grow by a factor."""

    max_attempts: int = 8
    """With the other defaults, the last attempt is 16 to 21 hours after the first."""
    first_seconds: float = 10.0
    factor: float = 5.0
    max_seconds: float = 36_000.0

    def delay_after(self, attempt: int, random: Callable[[], float]) -> float | None:
        """Return the seconds between this attempt, from 1 on, and the next. None: it was the last one.

        The delay is three quarters of the schedule's plus a random part of up to a quarter, so that a receiver that was
        down does not get all messages in the same moment. `random` returns numbers from 0 to 1.
        """
        if attempt >= self.max_attempts:
            return None
        # The exponent is bounded to keep the power within the range of a float.
        full = min(self.max_seconds, self.first_seconds * self.factor ** min(attempt - 1, 64))
        return full * (0.75 + 0.25 * random())


class DeliveryLimits(NamedTuple):
    """Limits of a process's concurrent deliveries, so that one receiver or owner does not delay the others."""

    per_host: int = 4
    per_owner: int = 16


class WebhookOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the keys [queue] webhook_…"""

    secret: bytes | None = None
    """Secret to sign with. None: webhooks are disabled."""
    rules: UrlRules = UrlRules()
    schedule: RetrySchedule = RetrySchedule()
    limits: DeliveryLimits = DeliveryLimits()
    root_path: str = ""
    """Begins the URL of the answer in a message."""
    poll_seconds: float = 0.5
    """Between polls for due messages."""


NO_WEBHOOKS = WebhookOptions()


def check_webhook(url: str, options: WebhookOptions) -> None:
    """Raise BadRequest if no message could be delivered to the URL."""
    if options.secret is None:
        raise BadRequest("This server sends no webhooks: set queue.webhook_secret to sign them with")
    try:
        options.rules.check(url)
    except UrlRefused as error:
        raise BadRequest(f"The webhook cannot be used: {error}") from None
