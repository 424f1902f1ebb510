"""Options of the queue and its webhooks, from the settings' table [queue]."""

from dragoman.core.egress.urls import UrlRules
from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.webhooks.message import parse_secret
from dragoman.jobs.webhooks.options import RetrySchedule, WebhookOptions
from dragoman.server.settings import QueueSettings

WEBHOOK_SECRET_VARIABLE = "DRAGOMAN_WORKER_WEBHOOK_SECRET"
"""Passes the secret to workers. Other users can read a process's arguments, but not its environment."""


def queue_options(settings: QueueSettings) -> QueueOptions:
    """Return the options by which jobs are accepted, run and kept."""
    return QueueOptions(
        priority_aging_seconds=settings.priority_aging_seconds,
        max_attempts=settings.max_attempts,
        concurrency=settings.concurrency,
        max_queued_jobs=settings.max_queued_jobs,
        max_queued_jobs_per_owner=settings.max_queued_jobs_per_account,
        max_queued_bytes=settings.max_queued_bytes,
        max_queued_bytes_per_owner=settings.max_queued_bytes_per_account,
        client_wait_seconds=settings.client_wait_seconds,
        result_ttl_hours=settings.result_ttl_hours,
        max_result_bytes=settings.max_result_bytes,
    )


def webhook_options(settings: QueueSettings, secret: str | None) -> WebhookOptions:
    """Return the options by which webhooks are sent, signed with the secret. Raises InvalidSecret."""
    return WebhookOptions(
        secret=None if secret is None else parse_secret(secret),
        rules=UrlRules(settings.webhook_allow_http, settings.webhook_allow_private_addresses),
        schedule=RetrySchedule(settings.webhook_max_attempts),
    )
