"""Checks of a URL before anything is sent to it."""

import pytest

from dragoman.core.egress.urls import UrlRefused, UrlRules, host_of, origin


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
def test_forbidden_urls_are_rejected_in_advance(url: str, reason: str) -> None:
    with pytest.raises(UrlRefused, match=reason):
        UrlRules().check(url)


@pytest.mark.parametrize(
    "url", ["https://receiver.test/", "https://8.8.8.8:8443/hook", "https://user:word@[2606:4700::1]/"]
)
def test_other_urls_are_allowed(url: str) -> None:
    assert str(UrlRules().check(url)) == url


def test_settings_can_allow_http_and_private_addresses() -> None:
    assert UrlRules(allow_http=True).check("http://receiver.test/").host == "receiver.test"
    assert UrlRules(allow_private=True).check("https://127.0.0.1/").host == "127.0.0.1"


def test_origin_and_host_hide_the_rest_of_a_url() -> None:
    url = "https://user:password@receiver.test:8443/token?key=secret"
    assert (origin(url), host_of(url)) == ("https://receiver.test:8443", "receiver.test")
    assert (origin("nonsense"), host_of("http://a:99999/")) == ("?", "")
