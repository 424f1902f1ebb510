import pytest

from dragoman.core.secret_text import SecretText
from dragoman.engines.upstream import http_client
from dragoman.engines.upstream.http_client import UpstreamClient
from dragoman.engines.upstream.http_request import UpstreamAddress


@pytest.mark.parametrize(
    "url",
    [
        "",
        "gpu1:8000",
        "ftp://a",
        "http://",
        "http://u:p@a",
        "http://a?key=b",
        "unix://run/x",
        "http://a:x",
        "http://a/ b",
    ],
)
def test_a_malformed_url_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="an upstream's URL") as caught:
        UpstreamAddress.parse(url)
    assert len(url) < 8 or url not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "authority", "root_path"),
    [
        ("http://gpu1:8000", "gpu1:8000", ""),
        ("http://gpu1:80/", "gpu1", ""),
        ("https://api.example/openai/v1/", "api.example", "/openai"),
        ("http://[::1]:8000", "[::1]:8000", ""),
        ("unix:///run/engine.sock", "localhost", ""),
        ("http://gpu1:8000/v1", "gpu1:8000", ""),
        ("http://gpu1:8000/llm-v1", "gpu1:8000", "/llm-v1"),
    ],
)
def test_urls_are_parsed(url: str, authority: str, root_path: str) -> None:
    address = UpstreamAddress.parse(url)
    assert (address.authority, address.root_path) == (authority, root_path)


def test_a_key_that_no_header_can_have_is_refused_without_being_repeated() -> None:
    with pytest.raises(ValueError, match="key has characters") as caught:
        UpstreamClient(UpstreamAddress.parse("http://a"), key=SecretText("secret\r\nx: y"))
    assert "secret" not in str(caught.value)


def test_a_secret_is_in_no_representation() -> None:
    secret = SecretText("hidden")
    assert "hidden" not in f"{secret} {secret!r} {[secret]} {vars(http_client)}"
    assert secret == SecretText("hidden") != SecretText("other")
    with pytest.raises(TypeError, match="not pickled"):
        secret.__reduce__()
