"""How webhooks are used, and which are refused from the start."""

from typing import NamedTuple

from dragoman.core.errors import BadRequest
from dragoman.jobs.webhooks.schedule import RetrySchedule
from dragoman.jobs.webhooks.urls import UrlRefused, UrlRules


class DeliveryLimits(NamedTuple):
    """What one receiver or one owner may have of a process's tries at the same time: the others' do not wait for it."""

    per_host: int = 4
    per_owner: int = 16


class WebhookOptions(NamedTuple):
    """The settings' keys [queue] webhook_…"""

    secret: bytes | None = None
    """To sign with; None: there are no webhooks."""
    rules: UrlRules = UrlRules()
    schedule: RetrySchedule = RetrySchedule()
    limits: DeliveryLimits = DeliveryLimits()
    poll_seconds: float = 0.5
    """Between looks for messages that are due."""


NO_WEBHOOKS = WebhookOptions()


def check_webhook(url: str, options: WebhookOptions) -> None:
    """Raises BadRequest for a webhook that would never be told anything."""
    if options.secret is None:
        raise BadRequest("This server sends no webhooks: set queue.webhook_secret to sign them with")
    try:
        options.rules.check(url)
    except UrlRefused as error:
        raise BadRequest(f"The webhook cannot be used: {error}") from None
