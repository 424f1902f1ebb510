"""The delays between attempts, and webhooks that are rejected on submission."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest
from dragoman.jobs.webhooks.message import parse_secret
from dragoman.jobs.webhooks.options import RetrySchedule, WebhookOptions, check_webhook
from tests.support.jobs.webhook_receivers import SECRET


def test_eight_attempts_take_most_of_a_day() -> None:
    shortest = [RetrySchedule().delay_after(attempt, lambda: 0.0) for attempt in range(1, 9)]
    longest = [RetrySchedule().delay_after(attempt, lambda: 1.0) for attempt in range(1, 9)]
    assert (shortest[-1], longest[-1]) == (None, None)
    assert [round(sum(pause or 0 for pause in pauses) / 3600) for pauses in (shortest, longest)] == [16, 21]


@given(st.integers(1, 2**40), st.floats(0, 1))
def test_a_delay_never_exceeds_the_maximum(attempt: int, luck: float) -> None:
    schedule = RetrySchedule(max_attempts=2**50)
    pause = schedule.delay_after(attempt, lambda: luck)
    assert pause is not None
    assert 7.5 <= pause <= schedule.max_seconds


def test_an_unusable_webhook_is_rejected_on_submission() -> None:
    options = WebhookOptions(secret=parse_secret(SECRET))
    check_webhook("https://receiver.test/", options)
    with pytest.raises(BadRequest, match=r"set queue\.webhook_secret"):
        check_webhook("https://receiver.test/", WebhookOptions())
    with pytest.raises(BadRequest, match=r"queue\.webhook_allow_http"):
        check_webhook("http://receiver.test/", options)
