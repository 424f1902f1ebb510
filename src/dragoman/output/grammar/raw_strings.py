"""Lark terminals of strings that stand outside of JSON, without quotes and escapes."""

from collections.abc import Iterator
from typing import Final

from dragoman.output.grammar.lark import ANY_TEXT, regex

_ANY: Final = "(?s:.*)"
_LABEL: Final = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_OCTET: Final = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_DATE: Final = (
    "[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_TIME: Final = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_PATH: Final = "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"

_FORMATS: Final = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "email": rf"[A-Za-z0-9_%+-]+(?:\.[A-Za-z0-9_%+-]+)*@(?:{_LABEL}\.)+[A-Za-z]{{2,63}}",
    "hostname": rf"{_LABEL}(?:\.{_LABEL}){{0,3}}",
    "ipv4": rf"{_OCTET}(?:\.{_OCTET}){{3}}",
    "uri": (
        rf"[A-Za-z][A-Za-z0-9+.-]*://{_LABEL}(?:\.{_LABEL}){{0,5}}(?::[0-9]{{1,4}})?(?:/{_PATH}*)*"
        rf"(?:\?(?:{_PATH}|[/?])*)?(?:#(?:{_PATH}|[/?])*)?"
    ),
    "uuid": "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
}
"""Formats → a regular expression of texts that have them, though not of all of these."""


def format_pattern(name: str) -> str | None:
    """Match texts of a format; None if it is not known here."""
    return regex(_FORMATS[name]) if name in _FORMATS else None


def length_pattern(minimum: int, maximum: int | None) -> str:
    """Match texts with as many characters."""
    return regex(f"(?s:.{{{minimum},{'' if maximum is None else maximum}}})")


def searching_pattern(pattern: str) -> str:
    """Match the texts in which a pattern of grammar.pattern is found. It has anchors at the edges of alternatives."""
    return regex("|".join(map(_anchored, _alternatives(pattern))))


def without(text: str) -> str:
    """Match texts that do not contain this one."""
    return f"{ANY_TEXT} & ~({ANY_TEXT} {_literal(text)} {ANY_TEXT})"


def not_beginning_with(text: str) -> str:
    """Match texts that do not begin with this one."""
    return f"~({_literal(text)} {ANY_TEXT})"


def _literal(text: str) -> str:
    return regex("".join(f"\\x{{{ord(character):X}}}" for character in text))


def _anchored(alternative: str) -> str:
    before = "" if alternative.startswith("^") else _ANY
    after = "" if alternative.endswith("$") else _ANY
    return f"{before}(?:{alternative.removeprefix('^').removesuffix('$')}){after}"


def _alternatives(pattern: str) -> Iterator[str]:
    """Yield the alternatives of a pattern, in which brackets and bars are escaped unless they have a meaning."""
    depth = start = position = 0
    while position < len(pattern):
        character = pattern[position]
        if character == "\\":
            position += 1
        elif character == "[":
            position = _class_end(pattern, position)
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif character == "|" and not depth:
            yield pattern[start:position]
            start = position + 1
        position += 1
    yield pattern[start:]


def _class_end(pattern: str, position: int) -> int:
    """Return the position of the bracket that closes the class which begins at `position`, with classes inside."""
    depth = 0
    while True:
        character = pattern[position]
        if character == "\\":
            position += 1
        elif character == "[":
            depth += 1
        elif character == "]":
            depth -= 1
            if not depth:
                return position
        position += 1
