"""Regular expressions of JSON Schemas, rewritten so that all regex dialects agree about what they match.

JSON Schema specifies ECMA-262's dialect, validators use that of their language, and llguidance uses Rust's. The
rewritten pattern is in Rust's dialect. It matches only what ECMA-262 (without flags) and Python's `re` match as well:
`\\d` is ASCII, `\\W` excludes everything that either calls a letter, `.` excludes line separators. The wide form
matches what any of them matches. Properties such as `\\p{L}`, which only ECMA-262 with the flag u knows, are Rust's.
"""

from typing import Final

from dragoman.output.grammar.pattern_automaton import equivalent_pattern
from dragoman.output.grammar.pattern_syntax import (
    UNWRITABLE,
    Alternatives,
    Anchor,
    Boundary,
    Characters,
    Class,
    LookAhead,
    MalformedPattern,
    Node,
    Repeat,
    Sequence,
    UnportablePattern,
    parse_pattern,
)

__all__ = ["UNWRITABLE", "MalformedPattern", "UnportablePattern", "portable_pattern", "portable_patterns"]

_ANY_SPACES = r"\t-\r\x1C-\x20\x85\xA0\u{1680}\u{180E}\u{2000}-\u{200A}\u{2028}\u{2029}\u{202F}\u{205F}\u{3000}\u{FEFF}"

_CLASSES: Final = {
    "d": ("0-9", r"\p{Nd}"),
    "w": ("A-Za-z0-9_", r"\p{Alphabetic}\p{M}\p{N}\p{Pc}"),
    "s": (r"\t-\r\x20", _ANY_SPACES),
}
"""Letter of a class → the characters that it has in every dialect, and in any dialect."""

_MAX_EXPANDED_CHARACTERS = 10_000
"""Limit of a pattern's length with its repetitions written out, which determines the time for its automaton."""


def portable_pattern(pattern: str, *, wide: bool = False) -> str:
    """Rewrite the pattern in Rust's dialect, without adding anchors. Raises MalformedPattern and UnportablePattern.

    It matches what every dialect matches; `wide`: what at least one of them matches.
    """
    return _rewritten(parse_pattern(pattern), wide)


def portable_patterns(pattern: str) -> list[str]:
    """Rewrite the pattern as one or several, of which a text must match all.

    A look-ahead at the beginning becomes a pattern of its own. Raises MalformedPattern and UnportablePattern.
    """
    node = parse_pattern(pattern)
    parts = node.parts if isinstance(node, Sequence) else ()
    if not parts or parts[0] != Anchor("^"):
        return [_rewritten(node, wide=False)]
    count = next((index for index, part in enumerate(parts[1:]) if not isinstance(part, LookAhead)), len(parts) - 1)
    assertions = [_alone(part) for part in parts[1 : 1 + count]]
    return [_rewritten(part, wide=False) for part in (*assertions, Sequence((parts[0], *parts[1 + count :])))]


def _alone(assertion: Node) -> Node:
    """Return the pattern that a text matches if the assertion holds at its beginning."""
    if not isinstance(assertion, LookAhead) or assertion.negated:
        return Sequence((Anchor("^"), assertion))
    part = assertion.part
    return Sequence((Anchor("^"), *(part.parts if isinstance(part, Sequence) else (part,))))


def _rewritten(node: Node, wide: bool) -> str:
    if not _needs_automaton(node):
        if _size(node) > _MAX_EXPANDED_CHARACTERS:
            raise UnportablePattern("its repetitions are too large")
        return _text(node, wide)
    pattern = equivalent_pattern(node, wide=wide)
    if len(pattern) > _MAX_EXPANDED_CHARACTERS:
        raise UnportablePattern("its assertions are too complex")
    return pattern


def _needs_automaton(node: Node, *, is_first: bool = True, is_last: bool = True) -> bool:
    """Whether the node has assertions, or anchors elsewhere than at the edges of the pattern's alternatives."""
    match node:
        case LookAhead() | Boundary():
            return True
        case Anchor("^"):
            return not is_first
        case Anchor():
            return not is_last
        case Repeat(part=part):
            return _needs_automaton(part, is_first=False, is_last=False)
        case Alternatives(parts=parts):
            return any(_needs_automaton(part, is_first=is_first, is_last=is_last) for part in parts)
        case Sequence(parts=parts):
            first = next((index for index, part in enumerate(parts) if part != Anchor("^")), len(parts))
            last = len(parts) - 1
            return any(
                _needs_automaton(
                    part,
                    is_first=is_first and index <= first and isinstance(part, Anchor),
                    is_last=is_last and index == last and isinstance(part, Anchor),
                )
                for index, part in enumerate(parts)
            )
    return False


def _size(node: Node) -> int:
    """Return the pattern's length with its repetitions written out."""
    match node:
        case Sequence(parts=parts) | Alternatives(parts=parts):
            return sum(map(_size, parts))
        case Repeat(part=part, minimum=minimum, maximum=maximum):
            return _size(part) * max(1, minimum, maximum or 0)
        case Characters():
            return 1
    return 0


def _text(node: Node, wide: bool) -> str:
    """Write a pattern without assertions in Rust's dialect."""
    match node:
        case Sequence(parts=parts):
            return "".join(
                f"(?:{_text(part, wide)})" if isinstance(part, Alternatives | Sequence) else _text(part, wide)
                for part in parts
            )
        case Alternatives(parts=parts):
            return "|".join(_text(part, wide) for part in parts)
        case Repeat(part=part, text=quantifier):
            text = _text(part, wide)
            return f"{text}{quantifier}" if isinstance(part, Characters) else f"(?:{text}){quantifier}"
        case Anchor("^"):
            return "^"
        case Anchor():
            return r"\n?$" if wide else "$"  # Python's $ matches before a last newline, too
        case Characters(items=items, negated=negated):
            return _characters(items, negated, wide)
    raise AssertionError(f"{node} is an assertion")


def _characters(items: tuple[tuple[str, str] | Class, ...], negated: bool, wide: bool) -> str:
    if not negated and len(items) == 1:
        item = items[0]
        if item == Class("."):
            return r"[^\n]" if wide else r"[^\n\r\u{2028}\u{2029}]"
        if isinstance(item, tuple) and item[0] == item[1]:
            return _literal(item[0])
    members = [
        _class(item.name, wide is not negated)
        if isinstance(item, Class)
        else _literal(item[0]) + ("" if item[0] == item[1] else f"-{_literal(item[1])}")
        for item in items
    ]
    return f"[{'^' if negated else ''}{''.join(members)}]"


def _class(name: str, wide: bool) -> str:
    """Write a class like \\d or \\W for use between [ and ]."""
    if len(name) > 1:
        return f"\\{name}"
    common, any_of = _CLASSES[name.lower()]
    if name.islower():
        return any_of if wide else common
    return f"[^{common if wide else any_of}]"


def _literal(character: str) -> str:
    """Escape one character for Rust's dialect, inside and outside a class."""
    if character.isascii() and not character.isalnum():
        return f"\\x{ord(character):02X}"
    return character
