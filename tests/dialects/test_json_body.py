import contextlib

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest
from dragoman.dialects.json_body import MalformedJson, decode, real, whole


class Inner(msgspec.Struct):
    name: str
    count: int | None = None


class Body(msgspec.Struct):
    temperature: int | float | None = None
    inner: list[Inner] | None = None
    flag: bool | None = None


DECODER = msgspec.json.Decoder(Body)


def refused(body: bytes) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        decode(DECODER, body)
    return caught.value


def test_an_object_becomes_the_struct() -> None:
    assert decode(DECODER, b' {"temperature": 1, "inner": [{"name": "a"}]} ') == Body(1, [Inner("a")])


def test_unknown_fields_are_ignored() -> None:
    assert decode(DECODER, b'{"temperature": 0.5, "unknown": {"deep": [null]}}') == Body(0.5)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b'{"temperature": 1',
        b'{"temperature": 1}}',
        b'{"temperature": 1,}',
        b"{'temperature': 1}",
        b"temperature=1",
        b'{"temperature": NaN}',
        b'{"temperature": Infinity}',
        b'{"temperature": -Infinity}',
        b'{"other": NaN}',
        b'{"temperature": 01}',
        b'{"inner": [{"name": "\xff"}]}',
        b'{"inner": [{"name": "\xed\xa0\x80"}]}',
        b'{"inner": [{"name": "\\ud800"}]}',
        b'{"inner": [{"name": "\\udc00\\ud800"}]}',
        b'{"inner": [{"name": "a\nb"}]}',
        b'\xef\xbb\xbf{"temperature": 1}',
        b'{"other": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_no_json_is_malformed(body: bytes) -> None:
    error = refused(body)
    assert isinstance(error, MalformedJson)
    assert error.message == "Invalid JSON in request body"


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"text"', b"true"])
def test_json_that_is_no_object_is_malformed_and_says_so(body: bytes) -> None:
    error = refused(body)
    assert isinstance(error, MalformedJson)
    assert error.message == "Request body must be a JSON object"


@pytest.mark.parametrize(
    ("body", "parameter", "message"),
    [
        (b'{"temperature": "1"}', "temperature", "temperature: expected int | float, got str"),
        (b'{"temperature": true}', "temperature", "temperature: expected int | float, got bool"),
        (b'{"temperature": [1]}', "temperature", "temperature: expected int | float, got array"),
        (b'{"flag": 1}', "flag", "flag: expected bool, got int"),
        (b'{"flag": "true"}', "flag", "flag: expected bool, got str"),
        (b'{"inner": {}}', "inner", "inner: expected array, got object"),
        (b'{"inner": [{"name": 1}]}', "inner", "inner[0].name: expected str, got int"),
        (b'{"inner": [{"name": "a"}, {}]}', "inner", "inner[1]: object missing required field name"),
        (b'{"inner": [null]}', "inner", "inner[0]: expected object, got null"),
        (b'{"temperature": 1e999}', "temperature", "temperature: number out of range"),
        (b'{"temperature": ' + b"9" * 5000 + b"}", "temperature", "temperature: integer value out of range"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(body: bytes, parameter: str, message: str) -> None:
    error = refused(body)
    assert not isinstance(error, MalformedJson)
    assert (error.parameter, error.message) == (parameter, message)


@given(st.binary(max_size=40) | st.text(max_size=20).map(str.encode))
@example(b'{"temperature":1e400}')
def test_every_body_is_decoded_or_refused(body: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert isinstance(decode(DECODER, body), Body)


@given(st.integers(-(2**63), 2**64 - 1))
def test_an_integer_is_taken_as_it_is(number: int) -> None:
    assert whole("n", number) == number


@given(st.integers(-(2**53), 2**53))
def test_an_integer_may_be_spelt_with_a_fraction_of_zero(number: int) -> None:
    assert whole("n", float(number)) == number


@given(st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer()))
def test_a_fraction_is_no_integer(number: float) -> None:
    with pytest.raises(BadRequest, match=r"^top_k must be an integer, got ") as caught:
        whole("top_k", number)
    assert caught.value.parameter == "top_k"


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**400, 1e300, -1e300])
def test_an_integer_of_more_than_64_bits_is_refused(number: float) -> None:
    with pytest.raises(BadRequest, match=r"^seed must be an integer of at most 64 bits, got -?\d") as caught:
        whole("seed", number)
    assert len(caught.value.message) < 120


def test_a_number_may_be_an_integer_unless_no_float_is_so_large() -> None:
    assert real("temperature", 1) == 1.0
    with pytest.raises(BadRequest, match=r"^temperature is too large a number: 1000") as caught:
        real("temperature", 10**400)
    assert caught.value.parameter == "temperature"
