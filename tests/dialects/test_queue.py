"""What asks for the queue."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from dragoman.core.errors import BadRequest
from dragoman.dialects.queue import Queueing, prefers_async, queueing_of

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
def test_the_preference_may_stand_among_others(values: list[str]) -> None:
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
        ["wait=5"],
    ],
)
def test_other_preferences_are_not_taken_for_it(values: list[str]) -> None:
    assert not prefers_async(prefer(*values))


others = st.sampled_from(["wait=5", "return=minimal", 'note="x, respond-async, y"', "handling=lenient; a=b", ""])


@given(st.lists(others, max_size=4), st.integers(0, 4), st.booleans())
def test_where_the_preference_stands_does_not_matter(preferences: list[str], place: int, several: bool) -> None:
    assert not prefers_async(prefer(", ".join(preferences)))
    preferences.insert(place, "respond-async")
    assert prefers_async(prefer(*preferences) if several else prefer(", ".join(preferences)))


def test_a_route_says_whether_its_clients_wait() -> None:
    assert queueing_of(Headers(), "when preferred") is None
    assert queueing_of(ASYNC, "when preferred") == Queueing(held=False, preferred=True, webhook=None)
    assert queueing_of(Headers(), "held") == Queueing(held=True, preferred=False, webhook=None)
    assert queueing_of(ASYNC, "held") == Queueing(held=False, preferred=True, webhook=None)
    assert queueing_of(ASYNC, "at once") == queueing_of(Headers(), "at once") == Queueing(False, False, None)


def test_a_webhook_goes_with_the_request_and_makes_it_another_one() -> None:
    url = "https://user@hooks.example:8443/done?a=b"
    with_webhook = queueing_of(Headers({"x-dragoman-webhook": url}), "held")
    without = queueing_of(Headers(), "held")
    assert with_webhook is not None
    assert without is not None
    assert with_webhook.webhook == url
    assert with_webhook.words != without.words


def test_two_webhooks_are_refused() -> None:
    headers = Headers(raw=[(b"x-dragoman-webhook", b"https://a.example")] * 2)
    with pytest.raises(BadRequest, match="one URL"):
        queueing_of(headers, "held")
