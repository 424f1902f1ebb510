import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.context import key_digest
from dragoman.core.errors import Unauthenticated
from dragoman.gateway.auth.static_keys import NO_KEYS, StaticKeyAuthenticator

KEYS = ["sk-0123456789abcdef", "sk-fedcba9876543210"]


@pytest.mark.parametrize("key", KEYS)
def test_every_configured_key_is_accepted(key: str) -> None:
    StaticKeyAuthenticator(map(key_digest, KEYS)).require(key)


@given(key=st.text())
def test_any_other_key_is_rejected(key: str) -> None:
    with pytest.raises(Unauthenticated):
        StaticKeyAuthenticator(map(key_digest, KEYS)).require(key)


@pytest.mark.parametrize("key", [None, ""])
def test_a_missing_key_is_distinguished_from_a_wrong_one(key: str | None) -> None:
    with pytest.raises(Unauthenticated) as raised:
        StaticKeyAuthenticator(map(key_digest, KEYS)).require(key)
    assert raised.value.fault == "missing"


def test_only_the_suffix_of_a_wrong_key_is_kept_and_nothing_of_a_short_one() -> None:
    with pytest.raises(Unauthenticated) as raised:
        StaticKeyAuthenticator(map(key_digest, KEYS)).require("sk-this-is-somebody-else's")
    assert (raised.value.fault, raised.value.key_suffix) == ("unknown", "se's")
    assert Unauthenticated("unknown").with_key("sk-short").key_suffix == ""


def test_a_key_has_the_label_from_the_settings() -> None:
    authenticator = StaticKeyAuthenticator({key_digest(KEYS[0]): "build server"})
    authenticator.require(KEYS[0])
    assert (authenticator.label(KEYS[0]), authenticator.label(KEYS[1]), authenticator.label(None)) == (
        "build server",
        "",
        "",
    )
    assert StaticKeyAuthenticator([key_digest(KEYS[0])]).label(KEYS[0]) == ""


def test_without_configured_keys_no_key_is_needed() -> None:
    assert not NO_KEYS.needs_key
    assert StaticKeyAuthenticator([key_digest("sk-0123456789abcdef")]).needs_key


def test_each_key_has_an_owner_of_its_own_unless_keys_are_grouped() -> None:
    digests = [key_digest(key) for key in [*KEYS, "sk-00112233445566778"]]
    authenticator = StaticKeyAuthenticator(digests, {digests[0]: "team", digests[2]: "team"})
    owners = [authenticator.owner_of_key(digest) for digest in digests]
    assert owners[0] == owners[2] != owners[1]
    removed = [authenticator.owner_of_key(key_digest(key)) for key in ("sk-removed", "sk-removed-too")]
    assert len({*owners, *removed, ""}) == 5
    assert not any(digest[:8] in owner for digest in digests for owner in [*owners, *removed])


def test_without_configured_keys_everybody_is_one_owner() -> None:
    assert {NO_KEYS.owner_of_key(key_digest(key)) for key in KEYS} == {NO_KEYS.owner_of_key("")} == {""}
