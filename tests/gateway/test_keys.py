import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import Unauthenticated
from dragoman.core.identifiers import key_digest
from dragoman.gateway.keys import NO_KEYS, KeyRing

KEYS = ["sk-0123456789abcdef", "sk-fedcba9876543210"]


@pytest.mark.parametrize("key", KEYS)
def test_each_key_opens(key: str) -> None:
    KeyRing(map(key_digest, KEYS)).require(key)


@given(key=st.text())
def test_nothing_else_opens(key: str) -> None:
    with pytest.raises(Unauthenticated):
        KeyRing(map(key_digest, KEYS)).require(key)


@pytest.mark.parametrize("key", [None, ""])
def test_a_missing_key_is_told_apart_from_a_wrong_one(key: str | None) -> None:
    with pytest.raises(Unauthenticated) as raised:
        KeyRing(map(key_digest, KEYS)).require(key)
    assert raised.value.fault == "missing"


def test_of_a_wrong_key_only_the_end_is_kept_and_nothing_of_a_short_one() -> None:
    with pytest.raises(Unauthenticated) as raised:
        KeyRing(map(key_digest, KEYS)).require("sk-this-is-somebody-else's")
    assert (raised.value.fault, raised.value.ending) == ("unknown", "se's")
    assert Unauthenticated("unknown", "sk-short").ending == ""


def test_a_key_is_called_what_its_owner_calls_it() -> None:
    ring = KeyRing({key_digest(KEYS[0]): "build server"})
    ring.require(KEYS[0])
    assert (ring.label(KEYS[0]), ring.label(KEYS[1]), ring.label(None)) == ("build server", "", "")
    assert KeyRing([key_digest(KEYS[0])]).label(KEYS[0]) == ""


def test_a_ring_without_keys_lets_everybody_in() -> None:
    assert not NO_KEYS.needs_key
    assert KeyRing([key_digest("sk-0123456789abcdef")]).needs_key
