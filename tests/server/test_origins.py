"""Host names and origins that are served, by the headers that browsers send."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.server.origins import InvalidOrigin, OriginPolicy, parse_host, parse_host_name, parse_origin

LOCAL = OriginPolicy(needs_key=False, hosts=["llm.example.com"], origins=["https://chat.example.com"])
ON_THE_NETWORK = OriginPolicy(needs_key=False, listens_on="0.0.0.0", hosts=["llm.example.com"])
WITH_KEYS = OriginPolicy(needs_key=True)


def status(policy: OriginPolicy, host: str, origin: str = "", site: str = "") -> int:
    refusal = policy.refusal(host, origin, site)
    return 200 if refusal is None else refusal.status


LOOPBACK = ["localhost", "LOCALHOST:8000", "a.localhost", "localhost.", "127.0.0.1:8000", "127.9.9.9", "[::1]:8000"]
STRANGE = ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "llm.example.com.evil.example", "a.b:1"]


@pytest.mark.parametrize("host", [*LOOPBACK, "0.0.0.0:8000", "", "LLM.example.com.:443"])
def test_a_loopback_server_is_served_under_its_own_names(host: str) -> None:
    assert status(LOCAL, host) == 200


@pytest.mark.parametrize("host", [*STRANGE, "192.168.1.7:8000", "[2001:db8::1]", "gpubox"])
def test_a_loopback_server_is_not_served_under_other_names(host: str) -> None:
    assert status(LOCAL, host) == 421


@pytest.mark.parametrize("host", [*LOOPBACK, "192.168.1.7:8000", "[2001:db8::1]", "gpubox", "dragoman:8000"])
def test_a_server_on_the_network_is_served_under_addresses_and_names_that_nobody_can_register(host: str) -> None:
    assert status(ON_THE_NETWORK, host) == 200


@pytest.mark.parametrize("host", STRANGE)
def test_a_server_on_the_network_is_not_served_under_names_of_strangers(host: str) -> None:
    assert status(ON_THE_NETWORK, host) == 421


@pytest.mark.parametrize("host", ["a b", "a/b", "a@b", "a?b", "a#b", "[::1", "::1", "a:b", "a:1:2", "a, b", "x" * 600])
@pytest.mark.parametrize("policy", [LOCAL, ON_THE_NETWORK, WITH_KEYS])
def test_a_malformed_host_is_a_bad_request(policy: OriginPolicy, host: str) -> None:
    assert status(policy, host) == 400


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("localhost:8000", "http://LOCALHOST:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("llm.example.com", "https://llm.example.com"),
        ("llm.example.com", "https://llm.example.com:443"),
        ("llm.example.com:443", "https://llm.example.com"),
        ("localhost:8000", "https://chat.example.com"),
    ],
)
def test_pages_of_the_server_itself_and_of_allowed_origins_are_served(host: str, origin: str) -> None:
    assert status(LOCAL, host, origin) == 200
    assert status(LOCAL, host, origin, "same-origin") == 200


@pytest.mark.parametrize(
    "origin",
    [
        *("http://evil.example", "null", "http://localhost:3000", "https://localhost:8000", "http://localhost"),
        *(
            "http://127.0.0.1:8000",
            "http://localhost:8000 http://evil.example",
            "http://localhost:8000/",
            "localhost:8000",
        ),
        *("http://chat.example.com", "https://chat.example.com.evil.example", "file://", "://localhost:8000"),
    ],
)
def test_pages_of_other_origins_are_refused_without_keys_only(origin: str) -> None:
    # A proxy may end TLS, so the scheme alone makes no other origin.
    expected = 200 if origin == "https://localhost:8000" else 403
    assert status(LOCAL, "localhost:8000", origin) == expected
    assert status(WITH_KEYS, "localhost:8000", origin) == 200


def test_requests_that_another_site_caused_are_refused_without_keys_only() -> None:
    assert status(LOCAL, "localhost:8000", "", "cross-site") == 403
    assert status(LOCAL, "localhost:8000", "https://chat.example.com", "cross-site") == 200
    assert [status(LOCAL, "localhost:8000", "", site) for site in ("none", "same-origin")] == [200, 200]
    assert status(WITH_KEYS, "localhost:8000", "", "cross-site") == 200


@given(st.text(max_size=40), st.text(max_size=40), st.sampled_from(["", "none", "same-origin", "cross-site"]))
def test_any_headers_are_decided_on(host: str, origin: str, site: str) -> None:
    assert status(LOCAL, host, origin, site) in (200, 400, 403, 421)


@given(st.sampled_from([*LOOPBACK, *STRANGE]))
def test_a_host_means_the_same_in_any_case_and_with_a_dot_at_its_end(host: str) -> None:
    parsed = parse_host(host)
    assert parsed == parse_host(host.swapcase())
    name, colon, port = host.rpartition(":") if host.rpartition(":")[2].isdecimal() else (host, "", "")
    if not name.endswith(("]", ".")) and name[:1].isalpha():
        assert parsed == parse_host(f"{name}.{colon}{port}")


@pytest.mark.parametrize(
    "name", ["http://a.example", "a.example:80", "a.example/", "*.example", "", "[::1]", "a b", "*"]
)
def test_a_setting_that_no_host_header_names_is_refused(name: str) -> None:
    with pytest.raises(InvalidOrigin):
        parse_host_name(name)


def test_host_names_of_the_settings_are_normalized() -> None:
    assert parse_host_name("LLM.Example.com.") == "llm.example.com"
    assert parse_host_name("münchen.example") == "xn--mnchen-3ya.example"


@pytest.mark.parametrize(
    "origin", ["https://a.example/", "a.example", "null", "https://", "https://a b", "https://a@b"]
)
def test_a_setting_that_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(InvalidOrigin):
        parse_origin(origin)
