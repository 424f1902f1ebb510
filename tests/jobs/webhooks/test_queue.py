"""A server that sends the webhooks of the jobs that are submitted to it."""

from pathlib import Path

import pytest

from dragoman.core.errors import BadRequest
from dragoman.jobs.webhooks.message import parse_secret
from dragoman.jobs.webhooks.options import NO_WEBHOOKS, WebhookOptions
from dragoman.jobs.webhooks.urls import Rules
from tests.support.metered import MODEL
from tests.support.queues import Shop, server
from tests.support.receivers import SECRET, Receiver, receiving

OPTIONS = WebhookOptions(parse_secret(SECRET), Rules(allow_http=True, allow_private=True), poll_seconds=0.02)


async def test_a_server_tells_that_a_job_has_ended(shop: Shop, tmp_path: Path) -> None:
    async with receiving(Receiver()) as receiver, server(shop, tmp_path, webhooks=OPTIONS) as one:
        job = await one.submit("Hello", webhook=receiver.url())
        [received] = await receiver.until(1)
    received.assert_signed()
    assert received.content["data"]["id"] == job.id
    assert shop.row(job.id).webhook_state == "delivered"
    assert one.counted("dragoman_queue_webhooks_total", result="delivered") == 1
    assert one.counted("dragoman_queue_attempts_total", model=MODEL, result="finished") == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (NO_WEBHOOKS, r"set queue\.webhook_secret"),
        (WebhookOptions(parse_secret(SECRET)), r"queue\.webhook_allow_http"),
        (WebhookOptions(parse_secret(SECRET), Rules(allow_http=True)), r"queue\.webhook_allow_private"),
    ],
)
async def test_a_webhook_that_would_not_be_told_is_refused_and_costs_nothing(
    shop: Shop, tmp_path: Path, options: WebhookOptions, says: str
) -> None:
    async with server(shop, tmp_path, webhooks=options) as one:
        with pytest.raises(BadRequest, match=says):
            await one.submit("Hello", webhook="http://127.0.0.1/hook")
    assert shop.usage == []
    shop.assert_settled()
