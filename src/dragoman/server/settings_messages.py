"""What is said of a wrong setting: which one, and what is allowed there. Never a secret."""

import re
from collections.abc import Iterable

import msgspec
from msgspec import inspect

from dragoman.server.settings import EngineSettings

_PLACE = re.compile(r" - at `\$(.*?)`")
"""How msgspec names the place of a value, as in `[0].load`. What a struct raises itself is followed by its place."""

_STEP = re.compile(r"\[.*?\]|\.(?P<field>\w+)")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_WRONG_CHOICE = re.compile(r"Invalid enum value (.*)", re.DOTALL)
_WRONG_TYPE = re.compile(r"Expected `")


def unknown_message(kind: str, name: str, allowed: Iterable[str], candidates: Iterable[str]) -> str:
    """Return that a name is unknown, the likely one, and the allowed ones."""
    return f"unknown {kind} {name}{_suggestion(name, candidates)} Allowed here: {', '.join(allowed)}"


def inner_message(where: str, annotation: object, error: msgspec.ValidationError) -> str:
    """Return what is wrong within an array or a table, whose type is `annotation`. Only choices are shown."""
    text = str(error)
    place = "".join(reversed(_PLACE.findall(text)))
    what = _PLACE.sub("", text)
    kind = type_at(annotation, place)
    key = where + place.replace("[...]", ": each value")
    if found := _UNKNOWN.fullmatch(what):
        assert isinstance(kind, inspect.StructType)
        names = [field.encode_name for field in kind.fields]
        return f"{key}: unknown key {found[1]}{_suggestion(found[1], names)} Allowed here: {', '.join(names)}"
    if found := _MISSING.fullmatch(what):
        return f"{key}: the key {found[1]} is missing"
    if found := _WRONG_CHOICE.fullmatch(what):
        return f"{key} must be {describe_allowed(kind)}, got {found[1]}"
    return f"{key} must be {describe_allowed(kind)}" if _WRONG_TYPE.match(what) else f"{key}: {what}"


def type_at(annotation: object, place: str) -> inspect.Type:
    """Return the type of the values at a place of an array or a table: of `[0].load` in `deployments`."""
    [kind] = _alternatives(inspect.type_info(annotation))
    for step in _STEP.finditer(place):
        match kind:
            case inspect.StructType(fields=fields):
                [kind] = _alternatives(next(field.type for field in fields if field.encode_name == step["field"]))
            case inspect.VarTupleType(item_type=inner) | inspect.DictType(value_type=inner):
                [kind] = _alternatives(inner)
        if isinstance(kind, inspect.DictType) and isinstance(kind.value_type, inspect.AnyType):
            kind = inspect.type_info(EngineSettings)  # The table `engine` of a deployment, which need not be complete.
    return kind


def describe_allowed(kind: object) -> str:
    """Return the allowed values in words: "an integer from 0 to 65535"."""
    info = kind if isinstance(kind, inspect.Type) else inspect.type_info(kind)
    return " or ".join(_describe_type(alternative) for alternative in _alternatives(info))


def _suggestion(name: str, candidates: Iterable[str]) -> str:
    import difflib  # Only for an error.

    close = difflib.get_close_matches(name, candidates, n=1)
    return f"; did you mean {close[0]}?" if close else "."


def _alternatives(kind: inspect.Type) -> list[inspect.Type]:
    """Return the types that a value may have, without that of None."""
    types = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    plain = (each.type if isinstance(each, inspect.Metadata) else each for each in types)
    return [alternative for alternative in plain if not isinstance(alternative, inspect.NoneType)]


def _describe_type(kind: inspect.Type) -> str:
    match kind:
        case inspect.BoolType():
            return "true or false"
        case inspect.StrType(pattern=str(pattern)):
            return f"text of the form {pattern}"
        case inspect.StrType(min_length=int(low)) if low > 1:
            return f"text of at least {low} characters"
        case inspect.StrType():
            return "text that is not empty"
        case inspect.LiteralType(values=values):
            return f"one of {', '.join(map(str, values))}"
        case inspect.IntType(ge=low, le=high):
            return f"an integer{_range(low, high)}"
        case inspect.FloatType(gt=None, ge=low, le=high):
            return f"a number{_range(low, high)}"
        case inspect.FloatType(gt=above, le=high):
            return f"a number above {above}" + ("" if high is None else f", {high} at most")
        case inspect.VarTupleType():
            return "an array"
        case inspect.DictType() | inspect.StructType():
            return "a table"
    raise NotImplementedError(f"settings of the type {kind} have no description yet")


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return ""
    return f" of at least {low}" if high is None else f" from {low} to {high}"
