"""What is told of a URL before anything is sent to it."""

import pytest

from dragoman.jobs.webhooks.urls import Rules, UrlRefused, host_of, origin


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://receiver.test/", "does not begin with https"),
        ("ftp://receiver.test/", "no URL of a web server"),
        ("https:///path", "no URL"),
        ("https://receiver.test:0/", "no URL of a web server"),
        ("https://127.0.0.1/", "not public"),
        ("https://[::ffff:10.0.0.1]/", "not public"),
        ("https://2130706433/", "not written as addresses are"),
        ("https://\u2460\u2461\u2466.0.0.1/", "not public"),
    ],
)
def test_what_is_never_sent_to_can_be_told_before(url: str, reason: str) -> None:
    with pytest.raises(UrlRefused, match=reason):
        Rules().check(url)


@pytest.mark.parametrize(
    "url", ["https://receiver.test/", "https://8.8.8.8:8443/hook", "https://user:word@[2606:4700::1]/"]
)
def test_everything_else_may_be_tried(url: str) -> None:
    assert str(Rules().check(url)) == url


def test_settings_allow_what_is_refused_otherwise() -> None:
    assert Rules(allow_http=True).check("http://receiver.test/").host == "receiver.test"
    assert Rules(allow_private=True).check("https://127.0.0.1/").host == "127.0.0.1"


def test_only_who_is_spoken_to_is_told_of_a_url() -> None:
    url = "https://user:password@receiver.test:8443/token?key=secret"
    assert (origin(url), host_of(url)) == ("https://receiver.test:8443", "receiver.test")
    assert (origin("nonsense"), host_of("http://a:99999/")) == ("?", "")
