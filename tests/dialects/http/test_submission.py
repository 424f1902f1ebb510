"""The headers that ask for the queue."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from dragoman.core.errors import BadRequest
from dragoman.dialects.http.generation import SubmissionOptions, prefers_async, submission_options

ASYNC = Headers({"prefer": "respond-async"})


def prefer(*values: str) -> Headers:
    return Headers(raw=[(b"prefer", value.encode()) for value in values])


@pytest.mark.parametrize(
    "values",
    [
        ["respond-async"],
        ["Respond-Async"],
        ["respond-async; q=1"],
        ['respond-async=""'],
        ["respond-async ="],
        ["wait=10, respond-async"],
        ["return=minimal", "respond-async"],
        ['note="a, b", respond-async, wait=10'],
        [r'note="\", ", respond-async'],
    ],
)
def test_the_preference_may_be_among_others(values: list[str]) -> None:
    assert prefers_async(prefer(*values))


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        ["respond-sync"],
        ["respond-async-later"],
        ["respond-async=no"],
        ['note="a, respond-async"'],
        ['note="' + r"\"" * 30_000 + ", respond-async"],
        ["wait=5"],
    ],
)
def test_other_preferences_are_not_taken_for_it(values: list[str]) -> None:
    assert not prefers_async(prefer(*values))


others = st.sampled_from(["wait=5", "return=minimal", 'note="x, respond-async, y"', "handling=lenient; a=b", ""])


@given(st.lists(others, max_size=4), st.integers(0, 4), st.booleans())
def test_where_the_preference_stands_does_not_matter(preferences: list[str], position: int, several: bool) -> None:
    assert not prefers_async(prefer(", ".join(preferences)))
    preferences.insert(position, "respond-async")
    assert prefers_async(prefer(*preferences) if several else prefer(", ".join(preferences)))


def test_the_queue_mode_decides_whether_clients_wait() -> None:
    assert submission_options(Headers(), "on_request") is None
    assert submission_options(ASYNC, "on_request") == SubmissionOptions(
        client_waits=False, prefers_async=True, webhook=None
    )
    assert submission_options(Headers(), "wait") == SubmissionOptions(
        client_waits=True, prefers_async=False, webhook=None
    )
    assert submission_options(ASYNC, "wait") == SubmissionOptions(client_waits=False, prefers_async=True, webhook=None)
    assert (
        submission_options(ASYNC, "background")
        == submission_options(Headers(), "background")
        == SubmissionOptions(client_waits=False, prefers_async=False, webhook=None)
    )


def test_a_webhook_changes_the_requests_fingerprint() -> None:
    url = "https://user@hooks.example:8443/done?a=b"
    with_webhook = submission_options(Headers({"x-dragoman-webhook": url}), "wait")
    without = submission_options(Headers(), "wait")
    assert with_webhook is not None
    assert without is not None
    assert with_webhook.webhook == url
    assert with_webhook.fingerprint_parts != without.fingerprint_parts


def test_two_webhooks_are_rejected() -> None:
    headers = Headers(raw=[(b"x-dragoman-webhook", b"https://a.example")] * 2)
    with pytest.raises(BadRequest, match="one URL"):
        submission_options(headers, "wait")
