"""A server that sends the webhooks of its jobs."""

from pathlib import Path

import pytest

from dragoman.core.egress.urls import UrlRules
from dragoman.core.errors import BadRequest
from dragoman.jobs.webhooks.message import parse_secret
from dragoman.jobs.webhooks.options import NO_WEBHOOKS, WebhookOptions
from tests.support.jobs.queue_harness import QueueHarness, queue_server
from tests.support.jobs.webhook_receivers import SECRET, WebhookReceiver, running_receiver
from tests.support.metered import MODEL

OPTIONS = WebhookOptions(
    secret=parse_secret(SECRET), rules=UrlRules(allow_http=True, allow_private=True), poll_seconds=0.02
)


async def test_a_server_delivers_the_end_of_a_job(harness: QueueHarness, tmp_path: Path) -> None:
    async with (
        running_receiver(WebhookReceiver()) as receiver,
        queue_server(harness, tmp_path, webhooks=OPTIONS) as server,
    ):
        job = await server.submit("Hello", webhook=receiver.url())
        [received] = await receiver.wait_for(1)
    received.assert_signed()
    assert received.content["data"]["id"] == job.id
    assert harness.job_row(job.id).webhook_state == "delivered"
    assert server.counter_value("dragoman_webhook_attempts_total", result="delivered") == 1
    assert server.counter_value("dragoman_job_attempts_total", model=MODEL, result="finished") == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (NO_WEBHOOKS, r"set queue\.webhook_secret"),
        (WebhookOptions(secret=parse_secret(SECRET)), r"queue\.webhook_allow_http"),
        (WebhookOptions(secret=parse_secret(SECRET), rules=UrlRules(allow_http=True)), r"queue\.webhook_allow_private"),
    ],
)
async def test_an_unusable_webhook_is_rejected_and_costs_nothing(
    harness: QueueHarness, tmp_path: Path, options: WebhookOptions, error: str
) -> None:
    async with queue_server(harness, tmp_path, webhooks=options) as server:
        with pytest.raises(BadRequest, match=error):
            await server.submit("Hello", webhook="http://127.0.0.1/hook")
    assert harness.usage == []
    harness.assert_settled()
