"""Headers by name, beside Starlette's, which pass over all of them."""

from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from dragoman.dialects.http.context import SentHeaders, sent_headers

NAMES = ("authorization", "x-api-key", "prefer")
headers = st.lists(st.tuples(st.sampled_from([name.encode() for name in NAMES]), st.binary(max_size=3)), max_size=5)


@given(headers)
def test_headers_are_those_that_starlette_finds(raw: list[tuple[bytes, bytes]]) -> None:
    ours, theirs = SentHeaders(raw), Headers(raw=raw)
    for name in (*NAMES, "Prefer", "absent"):
        assert ours.get(name) == theirs.get(name)
        assert ours.get(name, "x") == theirs.get(name, "x")
        assert ours.getlist(name) == theirs.getlist(name)
        assert (name in ours) == (name in theirs)
        assert name not in ours or ours[name] == theirs[name]
    assert ours == theirs
    for name in NAMES:
        assert ours.has_any({name.encode(), b"absent"}) == (name in theirs)


def test_headers_that_an_app_replaces_are_read_again() -> None:
    scope = {"headers": [(b"authorization", b"Bearer a")]}
    assert sent_headers(scope)["authorization"] == "Bearer a"
    assert sent_headers(scope) is sent_headers(scope)
    scope["headers"] = [(b"authorization", b"Bearer b")]
    assert sent_headers(scope)["authorization"] == "Bearer b"
