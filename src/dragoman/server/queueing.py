"""From [queue] to the queue's options."""

from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.webhooks.message import parse_secret
from dragoman.jobs.webhooks.options import WebhookOptions
from dragoman.jobs.webhooks.schedule import RetrySchedule
from dragoman.jobs.webhooks.urls import UrlRules
from dragoman.server.settings import QueueSettings

WEBHOOK_SECRET_VARIABLE = "DRAGOMAN_WORKER_WEBHOOK_SECRET"
"""How workers are told the secret: a process's arguments can be read by others."""


def queue_options(settings: QueueSettings) -> QueueOptions:
    """How the jobs are run."""
    return QueueOptions(
        ageing_seconds=settings.priority_aging_seconds,
        max_attempts=settings.max_attempts,
        concurrency=settings.concurrency,
        max_waiting=settings.max_queued_jobs,
        held_seconds=settings.client_wait_seconds,
        result_hours=settings.result_ttl_hours,
        result_bytes=settings.max_result_bytes,
    )


def webhook_options(settings: QueueSettings, secret: str | None) -> WebhookOptions:
    """How their ends are told, signed with the secret. Raises InvalidSecret."""
    return WebhookOptions(
        None if secret is None else parse_secret(secret),
        UrlRules(settings.webhook_allow_http, settings.webhook_allow_private_addresses),
        RetrySchedule(settings.webhook_max_attempts),
    )
