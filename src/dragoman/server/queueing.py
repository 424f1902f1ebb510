"""From [queue] to the queue's options."""

import msgspec

from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.webhooks.message import parse_secret
from dragoman.jobs.webhooks.options import WebhookOptions
from dragoman.jobs.webhooks.schedule import RetrySchedule
from dragoman.jobs.webhooks.urls import UrlRules
from dragoman.server.settings import QueueSettings

WEBHOOK_SECRET_VARIABLE = "DRAGOMAN_WORKER_WEBHOOK_SECRET"
"""How workers are told the secret: a process's arguments can be read by others."""

_WEBHOOK_PREFIX = "webhook_"


def queue_options(settings: QueueSettings) -> QueueOptions:
    """How the jobs are run."""
    fields = msgspec.structs.asdict(settings)
    return QueueOptions(**{name: value for name, value in fields.items() if not name.startswith(_WEBHOOK_PREFIX)})


def webhook_options(settings: QueueSettings, secret: str | None) -> WebhookOptions:
    """How their ends are told, signed with the secret. Raises InvalidSecret."""
    return WebhookOptions(
        None if secret is None else parse_secret(secret),
        UrlRules(settings.webhook_allow_http, settings.webhook_allow_private),
        RetrySchedule(settings.webhook_attempts),
    )
