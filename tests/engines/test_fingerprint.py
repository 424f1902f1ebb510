import re

from hypothesis import given
from hypothesis import strategies as st

from dragoman.engines.echo import EchoEngine
from dragoman.engines.fingerprint import fingerprint

PARTS = st.lists(st.text(max_size=3) | st.integers() | st.booleans() | st.none(), max_size=3)


@given(PARTS, PARTS)
def test_fingerprints_are_equal_exactly_when_their_parts_are(one: list[object], other: list[object]) -> None:
    assert (fingerprint(*one) == fingerprint(*other)) == (list(map(repr, one)) == list(map(repr, other)))


@given(PARTS)
def test_a_fingerprint_has_the_form_that_clients_know(parts: list[object]) -> None:
    assert re.fullmatch(r"fp_[0-9a-f]{12}", fingerprint(*parts))


def test_the_echo_engines_fingerprint_changes_with_its_settings_only() -> None:
    assert EchoEngine(context_length=9).fingerprint == EchoEngine(context_length=9).fingerprint
    engines = (EchoEngine(), EchoEngine(context_length=9), EchoEngine(tokens_per_second=9))
    assert len({engine.fingerprint for engine in engines}) == 3
