import json
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from dragoman.dialects.http.fastapi_errors import fastapi_detail
from dragoman.dialects.http.validation import (
    MAX_VIOLATIONS,
    InvalidFields,
    InvalidValue,
    MalformedJson,
    MissingField,
    NotAnObject,
    NotOneOf,
    OutOfRange,
    PatternMismatch,
    UnknownField,
    Violation,
    WrongLength,
    WrongType,
    decode_body,
    describe,
)


class Turn(msgspec.Struct):
    role: Literal["user", "system"]
    content: str | None = None


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    bindings: dict[str, str | float | bool] = {}


class Body(msgspec.Struct, kw_only=True):
    model: str
    turns: Annotated[list[Turn], Meta(min_length=1)]
    count: Annotated[int, Meta(ge=1, le=16)] = 3
    heat: Annotated[float, Meta(ge=0, le=2)] = 0.7
    penalty: Annotated[float, Meta(gt=0)] = 1.0
    stream: bool = False
    stop: str | Annotated[list[str], Meta(max_length=2)] | None = None
    closed: Closed | None = None
    name: Annotated[str, Meta(pattern="^[a-z]+$")] = "a"
    effort: Literal["low", "high"] | Literal["max"] | None = None
    biases: Annotated[dict[str, float], Meta(max_length=2)] = {}


VALID: dict[str, Any] = {"model": "m", "turns": [{"role": "user"}]}


def body(**fields: object) -> Body:
    return decode_body(json.dumps(VALID | fields).encode(), Body)


def violations(**fields: object) -> list[Violation]:
    with pytest.raises(InvalidFields) as raised:
        body(**fields)
    return raised.value.violations


def test_null_counts_as_absent_even_if_the_type_has_no_none() -> None:
    assert body(count=None, heat=None, stream=None, stop=None) == body()


@pytest.mark.parametrize("effort", ["low", "high", "max"])
def test_a_null_elsewhere_does_not_change_which_words_are_accepted(effort: str) -> None:
    assert body(effort=effort, count=None).effort == effort


def test_all_accepted_words_are_named() -> None:
    assert violations(effort="none") == [Violation(("effort",), NotOneOf(("high", "low", "max"), "none"))]
    assert violations(effort=1) == [Violation(("effort",), WrongType(("string",)))]


def test_no_more_than_20_violations_are_reported() -> None:
    found = violations(turns=[1] * 1000)
    assert found == [Violation(("turns", index), WrongType(("object",))) for index in range(MAX_VIOLATIONS)]
    found = violations(closed=dict.fromkeys(map(str, range(1000)), 1))
    assert found == [Violation(("closed", str(index)), UnknownField()) for index in range(MAX_VIOLATIONS)]


def test_the_items_of_a_list_that_is_too_long_are_not_looked_at() -> None:
    assert violations(stop=[1] * 1000) == [Violation(("stop",), WrongLength("array", None, 2, 1000))]
    assert violations(biases=dict.fromkeys(map(str, range(1000)), "a")) == [
        Violation(("biases",), WrongLength("object", None, 2, 1000))
    ]
    assert describe("biases", WrongLength("object", None, 2, 3)) == "biases must have at most 2 members, got 3"
    assert fastapi_detail(Violation(("biases",), WrongLength("object", None, 2, 3))).type == "too_long"


def test_a_clients_own_name_is_shortened_in_the_place_of_a_violation() -> None:
    assert violations(closed={"a" * 1000: 1}) == [Violation(("closed", "a" * 200), UnknownField())]


@given(count=st.integers(1, 16))
def test_a_whole_number_may_be_written_as_a_float(count: int) -> None:
    assert body(count=float(count)).count == count


@pytest.mark.parametrize("wrong", [1.5, "1", True, [1], {}])
def test_nothing_else_is_an_integer(wrong: object) -> None:
    assert violations(count=wrong) == [Violation(("count",), WrongType(("integer",)))]


def test_a_pattern_mismatch_is_a_violation() -> None:
    assert body(name="b").name == "b"
    [violation] = violations(name="B")
    assert violation == Violation(("name",), PatternMismatch("^[a-z]+$"))
    assert describe("name", violation.problem) == "name must match ^[a-z]+$"
    detail_sent = fastapi_detail(violation)
    assert (detail_sent.msg, detail_sent.type) == ("String should match pattern '^[a-z]+$'", "string_pattern_mismatch")


def test_nested_violations_have_their_path() -> None:
    assert describe("turns", InvalidValue("turns are odd")) == "turns are odd"
    assert describe("turns[0].role", InvalidValue("Too odd")) == "turns[0].role: Too odd"


@pytest.mark.parametrize("wrong", [0, 1, "true"])
def test_only_true_and_false_are_booleans(wrong: object) -> None:
    assert violations(stream=wrong) == [Violation(("stream",), WrongType(("boolean",)))]


def test_everything_wrong_is_found_in_the_order_of_the_fields() -> None:
    found = violations(model=None, turns=[{"role": "user"}, {"role": "god"}], count=17, heat=-1, penalty=0, stop=[1])
    assert found == [
        Violation(("model",), MissingField()),
        Violation(("turns", 1, "role"), NotOneOf(("system", "user"), "god")),
        Violation(("count",), OutOfRange(1, 16, None, 17)),
        Violation(("heat",), OutOfRange(0, 2, None, -1)),
        Violation(("penalty",), OutOfRange(None, None, 0, 0)),
        Violation(("stop", 0), WrongType(("string",))),
    ]


def test_lengths_and_unknown_members_are_found() -> None:
    assert violations(turns=[], stop=["a", "b", "c"], closed={"bindings": {}, "extra": 1}) == [
        Violation(("turns",), WrongLength("array", 1, None, 0)),
        Violation(("stop",), WrongLength("array", None, 2, 3)),
        Violation(("closed", "extra"), UnknownField()),
    ]


def test_unknown_fields_are_ignored_where_the_struct_is_open() -> None:
    assert body(unheard="of") == body()


@pytest.mark.parametrize("text", [b"", b"{", b"{'a': 1}", b'{"model": NaN}', b"\xff", b"[" * 5000])
def test_invalid_json_is_malformed(text: bytes) -> None:
    with pytest.raises(MalformedJson):
        decode_body(text, Body)


@pytest.mark.parametrize("text", [b"[]", b'"text"', b"1", b"null"])
def test_json_that_is_not_an_object_is_distinguished(text: bytes) -> None:
    with pytest.raises(NotAnObject):
        decode_body(text, Body)


def test_a_number_too_large_for_a_float_is_out_of_range() -> None:
    [violation] = violations(heat=10**400)
    assert isinstance(violation.problem, OutOfRange)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(fields=st.dictionaries(st.sampled_from([*Body.__struct_fields__, "x"]), json_values))
def test_any_object_is_a_body_or_has_violations_at_fields_it_has_or_lacks(fields: dict[str, Any]) -> None:
    found: list[Violation] = []
    try:
        decode_body(json.dumps(fields).encode(), Body)
    except InvalidFields as error:
        found = error.violations
    assert all(violation.path[0] in Body.__struct_fields__ for violation in found)


@pytest.mark.parametrize(
    ("violation", "words", "detail"),
    [
        (Violation(("model",), MissingField()), "model is required", ("Field required", "missing")),
        (
            Violation(("count",), WrongType(("integer",))),
            "count must be an integer",
            ("Input should be a valid integer", "int_type"),
        ),
        (
            Violation(("heat",), OutOfRange(0, 2, None, 3)),
            "heat must be between 0 and 2, got 3",
            ("Input should be between 0 and 2", "value_error"),
        ),
        (
            Violation(("penalty",), OutOfRange(None, None, 0, 0)),
            "penalty must be greater than 0, got 0",
            ("Input should be greater than 0", "greater_than"),
        ),
        (
            Violation(("stop",), WrongLength("array", None, 4, 5)),
            "stop must have at most 4 items, got 5",
            ("List should have at most 4 items, got 5", "too_long"),
        ),
        (
            Violation(("turns", 1, "role"), NotOneOf(("a", "b"), "c")),
            "turns[1].role must be one of a, b, got 'c'",
            ("Input should be one of a, b", "enum"),
        ),
        (
            Violation(("x",), UnknownField()),
            "x is not known here",
            ("Extra inputs are not permitted", "extra_forbidden"),
        ),
    ],
)
def test_a_problem_has_a_plain_and_a_fastapi_message(violation: Violation, words: str, detail: tuple[str, str]) -> None:
    assert describe(violation.field, violation.problem) == words
    detail_sent = fastapi_detail(violation)
    assert (detail_sent.loc, detail_sent.msg, detail_sent.type) == (("body", *violation.path), *detail)
