"""Validates a JSON body against its wire struct: the struct's types, ranges and defaults are the only rules.

msgspec stops at the first mistake and is stricter about `null` and `40.0` than the services are. So a body it rejects
is walked again here to find every violation, with its place and what was expected. The dialect puts it into words.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import inspect

from dragoman.core.errors import BadRequest

WireStruct = TypeVar("WireStruct", bound=msgspec.Struct)
FieldPath = tuple[str | int, ...]

MAX_VIOLATIONS = 20
"""Violations of one request that are reported."""

_MAX_NAME = 200
"""Characters of a client's own name in the path of a violation."""


class MissingField(NamedTuple):
    """A required field is absent or null."""


class WrongType(NamedTuple):
    """`expected` names JSON types: integer, number, string, boolean, array, object."""

    expected: tuple[str, ...]


class OutOfRange(NamedTuple):
    """A number outside its inclusive bounds; `above` is an exclusive lower one. None: no bound."""

    low: float | None
    high: float | None
    above: float | None
    got: float


class WrongLength(NamedTuple):
    """A string, array or object that is too short or too long. None: no bound."""

    json_type: str
    low: int | None
    high: int | None
    got: int


class NotOneOf(NamedTuple):
    """A value that is not in its list."""

    values: tuple[object, ...]
    got: object


class PatternMismatch(NamedTuple):
    """A string that does not match its regular expression."""

    pattern: str


class UnknownField(NamedTuple):
    """A field that is not allowed."""


class InvalidValue(NamedTuple):
    """Any other problem, in words."""

    message: str


Problem = MissingField | WrongType | OutOfRange | WrongLength | NotOneOf | PatternMismatch | UnknownField | InvalidValue


class Violation(NamedTuple):
    """One mistake and its place."""

    path: FieldPath
    problem: Problem

    @property
    def field(self) -> str:
        """The path in text form: messages[0].role."""
        return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path).removeprefix(".")


class MalformedJson(BadRequest):
    """The body is not JSON, or not an object."""


class InvalidFields(BadRequest):
    """The body breaks its struct's rules; `violations` is not empty, and in the order of the fields."""

    def __init__(self, violations: list[Violation]) -> None:
        """The first MAX_VIOLATIONS are reported."""
        self.violations = violations[:MAX_VIOLATIONS]
        field = violations[0].field
        super().__init__(describe(field, violations[0].problem), field.partition(".")[0].partition("[")[0])


class NotAnObject(MalformedJson):
    """The body is JSON, but not an object."""


def raise_violations(violations: list[Violation]) -> None:
    """Raise InvalidFields if there are any."""
    if violations:
        raise InvalidFields(violations)


def decode_body(body: bytes, struct: type[WireStruct]) -> WireStruct:
    """Decode the body as `struct`. `null` counts as absent, 40.0 as 40. Raises MalformedJson or InvalidFields."""
    try:
        return msgspec.json.decode(body, type=struct)
    except msgspec.ValidationError:
        return _decode_leniently(body, struct)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedJson("Request body is not valid JSON") from error


def convert_value(value: object, struct: type[WireStruct], path: FieldPath) -> WireStruct:
    """Convert a part of a body, which stands at `path`, as decode_body does. Raises InvalidFields."""
    try:
        return msgspec.convert(value, struct)
    except msgspec.ValidationError:
        check = _BodyValidator()
        normalized = check.value(_type_info(struct), value, path)
        raise_violations(check.violations)
        return msgspec.convert(normalized, struct)


def describe(field: str, problem: Problem) -> str:
    """Return a problem in plain words."""
    match problem:
        case MissingField():
            return f"{field} is required"
        case WrongType(expected):
            return f"{field} must be {' or '.join(map(with_article, expected))}"
        case OutOfRange(low, high, above, got):
            return f"{field} must be {bounds(low, high, above)}, got {got:g}"
        case WrongLength(json_type, low, high, got):
            if json_type == "array" and low is not None and high is not None:
                low, high = (None, high) if got > high else (low, None)
            unit = {"array": "items", "object": "members"}.get(json_type, "characters")
            return f"{field} must have {bounds(low, high, None).removeprefix('be ')} {unit}, got {got}"
        case NotOneOf(values, got):
            return f"{field} must be one of {', '.join(map(str, values))}, got {str(got)[:40]!r}"
        case PatternMismatch(pattern):
            return f"{field} must match {pattern}"
        case UnknownField():
            return f"{field} is not known here"
        case InvalidValue(message):
            # The message about a whole field names it.
            return f"{field}: {message}" if "." in field or "[" in field else message


def bounds(low: float | None, high: float | None, above: float | None) -> str:
    """Return bounds in words: between 0 and 2."""
    if above is not None:
        return f"greater than {above:g}" + ("" if high is None else f" and at most {high:g}")
    if low is None:
        return "a number that can be represented" if high is None else f"at most {high:g}"
    return f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"


def with_article(name: str) -> str:
    """Add the article: integer → an integer."""
    return f"{'an' if name[0] in 'aeio' else 'a'} {name}"


def _decode_leniently(body: bytes, struct: type[WireStruct]) -> WireStruct:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedJson("Request body is not valid JSON") from error
    if not isinstance(document, dict):
        raise NotAnObject("Request body must be a JSON object")
    check = _BodyValidator()
    normalized = check.value(_type_info(struct), document, ())
    if check.violations:
        raise InvalidFields(check.violations)
    try:
        return msgspec.convert(normalized, struct)
    except (msgspec.ValidationError, OverflowError) as error:
        raise BadRequest(str(error)) from error


@functools.cache
def _type_info(struct: type[msgspec.Struct]) -> inspect.Type:
    return inspect.type_info(struct)


class _BodyValidator:
    """Walks a document along its types, normalizes it for msgspec and collects violations.

    It ends with as many as are reported, and does not enter a list or object with too many items.
    """

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def value(self, info: inspect.Type, value: Any, path: FieldPath) -> Any:
        match info:
            case inspect.AnyType() | inspect.RawType() | inspect.CustomType():
                return value
            case inspect.UnionType():
                return self._one_of_types(info, value, path)
            case inspect.StructType() if isinstance(value, dict):
                return self._object(info, value, path)
            case inspect.DictType() if isinstance(value, dict):
                if not self._length("object", info.min_length, info.max_length, len(value), path):
                    return None
                return {key: self.value(info.value_type, item, (*path, key)) for key, item in value.items()}
            case inspect.ListType() | inspect.VarTupleType() if isinstance(value, list):
                if not self._length("array", info.min_length, info.max_length, len(value), path):
                    return None
                return [self.value(info.item_type, item, (*path, index)) for index, item in enumerate(value)]
            case inspect.StrType() if isinstance(value, str):
                self._length("string", info.min_length, info.max_length, len(value), path)
                if info.pattern is not None and not re.search(info.pattern, value):
                    self._report(Violation(path, PatternMismatch(info.pattern)))
                return value
            case inspect.BoolType() if isinstance(value, bool):
                return value
            case inspect.LiteralType():
                return self._literal(info, value, path)
            case inspect.IntType() if _is_integer(value):
                return self._number(info, int(value), path)
            case inspect.FloatType() if _is_number(value):
                return self._number(info, value, path)
        self._report(Violation(path, WrongType((_json_type(info),))))
        return None

    def _object(self, info: inspect.StructType, value: Mapping[str, Any], path: FieldPath) -> dict[str, Any]:
        normalized = {}
        for field in info.fields:
            name = field.encode_name
            if value.get(name) is not None:
                normalized[name] = self.value(field.type, value[name], (*path, name))
            elif field.required:
                self._report(Violation((*path, name), MissingField()))
        if info.forbid_unknown_fields:
            known = {field.encode_name for field in info.fields}
            for name in value:
                if name not in known:
                    self._report(Violation((*path, name), UnknownField()))
        return normalized

    def _one_of_types(self, info: inspect.UnionType, value: Any, path: FieldPath) -> Any:
        kinds = _kinds(info)
        # The first type that fits; otherwise one of the same JSON type, to report the violations inside.
        for fits in (_fits, _are_both_arrays):
            for kind in kinds:
                if fits(kind, value):
                    return self.value(kind, value, path)
        if value is not None or not any(isinstance(kind, inspect.NoneType) for kind in info.types):
            self._report(Violation(path, WrongType(tuple(dict.fromkeys(map(_json_type, kinds))))))
        return None

    def _literal(self, info: inspect.LiteralType, value: Any, path: FieldPath) -> Any:
        if not isinstance(value, type(info.values[0])):
            self._report(Violation(path, WrongType((_json_type(info),))))
        elif value not in info.values:
            self._report(Violation(path, NotOneOf(tuple(info.values), value)))
        return value

    def _number(self, info: inspect.IntType | inspect.FloatType, value: float, path: FieldPath) -> float:
        low, high, above = info.ge, info.le, info.gt
        in_range = (
            (low is None or value >= low) and (high is None or value <= high) and (above is None or value > above)
        )
        if not in_range or (isinstance(info, inspect.FloatType) and math.isinf(_as_float(value))):
            self._report(Violation(path, OutOfRange(low, high, above, _as_float(value))))
        return value

    def _length(self, json_type: str, low: int | None, high: int | None, got: int, path: FieldPath) -> bool:
        """Report a length out of its bounds. True if it is within them."""
        if (low is None or got >= low) and (high is None or got <= high):
            return True
        self._report(Violation(path, WrongLength(json_type, low, high, got)))
        return False

    def _report(self, violation: Violation) -> None:
        """Add a violation. Raises InvalidFields if it is the last that is reported."""
        path = tuple(part[:_MAX_NAME] if isinstance(part, str) else part for part in violation.path)
        self.violations.append(violation._replace(path=path))
        if len(self.violations) == MAX_VIOLATIONS:
            raise InvalidFields(self.violations)


def _kinds(info: inspect.UnionType) -> list[inspect.Type]:
    """Return the types of a union without None. Several lists of words are one."""
    literals = [kind for kind in info.types if isinstance(kind, inspect.LiteralType)]
    others = [kind for kind in info.types if not isinstance(kind, inspect.LiteralType | inspect.NoneType)]
    if not literals:
        return others
    return [inspect.LiteralType(tuple(value for literal in literals for value in literal.values)), *others]


def _fits(info: inspect.Type, value: Any) -> bool:
    match info:
        case inspect.StrType():
            return isinstance(value, str)
        case inspect.LiteralType():
            return isinstance(value, type(info.values[0]))
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.IntType():
            return _is_integer(value)
        case inspect.FloatType():
            return _is_number(value)
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return isinstance(value, list) and (not value or _fits(item, value[0]))
        case inspect.UnionType(types=types):
            return any(_fits(kind, value) for kind in types)
        case inspect.StructType() | inspect.DictType():
            return isinstance(value, dict)
    return isinstance(info, inspect.AnyType)


def _are_both_arrays(info: inspect.Type, value: Any) -> bool:
    return isinstance(info, inspect.ListType | inspect.VarTupleType) and isinstance(value, list)


def _json_type(info: inspect.Type) -> str:
    match info:
        case inspect.StrType() | inspect.LiteralType():
            return "string"
        case inspect.BoolType():
            return "boolean"
        case inspect.IntType():
            return "integer"
        case inspect.FloatType():
            return "number"
        case inspect.ListType() | inspect.VarTupleType():
            return "array"
    return "object"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: object) -> bool:
    return _is_number(value) and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def violations_of(error: BadRequest) -> Iterator[Violation]:
    """Return the violations of an error, also of one that names a single field only."""
    if isinstance(error, InvalidFields):
        yield from error.violations
    else:
        yield Violation((error.parameter,) if error.parameter else (), InvalidValue(error.message))


class UnsupportedField(NamedTuple):
    """A field of a request that is refused."""

    reason: str
    accepted: tuple[object, ...] = ()
    """Values besides null that have no effect, such as the field's default."""


class UnsupportedFields:
    """Finds the fields of one route in a body."""

    def __init__(self, fields: Mapping[str, UnsupportedField]) -> None:
        self._fields = fields
        # Only these fields are decoded. Members of the body that it does not name cost little to skip.
        sent: type[msgspec.Struct] = msgspec.defstruct("SentFields", [(name, Any, None) for name in fields])
        self._decode = msgspec.json.Decoder(sent).decode
        self._absent = sent()

    def check(self, body: bytes) -> None:
        """Raise BadRequest for the first with a value that has an effect, or for what `decode_body` skipped unseen."""
        try:
            sent = self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedJson("Request body is not valid JSON") from error
        if sent == self._absent:
            return
        for name, field in self._fields.items():
            value = getattr(sent, name)
            if value is not None and value not in field.accepted:
                raise BadRequest(f"{name} is not supported by this server: {field.reason}", name)
