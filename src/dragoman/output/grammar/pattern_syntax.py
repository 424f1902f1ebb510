"""Parses regular expressions of JSON Schemas in the syntax that ECMA-262, Python and Rust share.

What only one of them knows, or what they read differently, is refused.
"""

import re
from dataclasses import dataclass
from typing import Final

_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}
_QUANTIFIER = re.compile(r"[*+?]|\{[0-9]+(?:,[0-9]*)?\}")
_HEX = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})")
_PROPERTY = re.compile(r"[pP]\{(?:[A-Za-z_]+=)?[A-Za-z_]+\}")
_CLASS_LETTERS: Final = "dwsDWS"

UNWRITABLE = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")
"""Characters that JSON can only write as \\u00XX. This is not generated, since a name could have two spellings."""

_MAX_GROUP_DEPTH = 50


class MalformedPattern(ValueError):
    """The pattern is invalid in every dialect."""


class UnportablePattern(ValueError):
    """The pattern differs between dialects, or cannot be enforced."""


@dataclass(frozen=True)
class Class:
    """A class with a name: `.`, or the letter of `\\d`, `\\W` and the like, or a property such as `p{L}`."""

    name: str


@dataclass(frozen=True)
class Characters:
    """One character of a set of ranges (first, last) and classes, or none of them if `negated`."""

    items: tuple[tuple[str, str] | Class, ...]
    negated: bool = False


@dataclass(frozen=True)
class Sequence:
    """Parts one after the other."""

    parts: tuple["Node", ...]


@dataclass(frozen=True)
class Alternatives:
    """One of several parts."""

    parts: tuple["Node", ...]


@dataclass(frozen=True)
class Repeat:
    """A part `minimum` to `maximum` times (None: any number)."""

    part: "Node"
    minimum: int
    maximum: int | None
    text: str
    """The quantifier."""


@dataclass(frozen=True)
class Anchor:
    """`^` or `$`."""

    text: str


@dataclass(frozen=True)
class Boundary:
    """`\\b`, or `\\B` if `negated`."""

    negated: bool


@dataclass(frozen=True)
class LookAhead:
    """`(?=…)`, or `(?!…)` if `negated`."""

    part: "Node"
    negated: bool


Node = Characters | Sequence | Alternatives | Repeat | Anchor | Boundary | LookAhead


def parse_pattern(pattern: str) -> Node:
    """Parse a pattern. Raises MalformedPattern and UnportablePattern."""
    parser = _Parser(pattern)
    node = parser.alternatives()
    if parser.next:
        raise MalformedPattern("it closes a group that it did not open")
    return node


class _Parser:
    """A recursive-descent parser."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._position = 0
        self._depth = 0

    @property
    def next(self) -> str:
        """The next character; empty at the end."""
        return self._pattern[self._position : self._position + 1]

    def alternatives(self) -> Node:
        parts = [self._sequence()]
        while self._accept("|"):
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else Alternatives(tuple(parts))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self.next and self.next not in "|)":
            parts.append(self._repeated(self._atom()))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _repeated(self, part: Node) -> Node:
        match = _QUANTIFIER.match(self._pattern, self._position)
        if match is None:
            return part
        if isinstance(part, Anchor | Boundary | LookAhead):
            raise UnportablePattern("it repeats an anchor or an assertion")
        self._position = match.end()
        self._accept("?")  # a lazy quantifier matches the same texts
        if _QUANTIFIER.match(self._pattern, self._position):
            raise MalformedPattern("it repeats a repetition")
        if match[0] in "*+?":
            return Repeat(part, int(match[0] == "+"), 1 if match[0] == "?" else None, match[0])
        minimum, comma, maximum = match[0][1:-1].partition(",")
        if maximum and int(maximum) < int(minimum):
            raise MalformedPattern(f"the bounds of {match[0]} are in the wrong order")
        bound = int(maximum) if maximum else None
        return Repeat(part, int(minimum), bound if comma else int(minimum), match[0])

    def _atom(self) -> Node:
        character = self._read_character()
        match character:
            case "^" | "$":
                return Anchor(character)
            case "(":
                return self._group()
            case "[":
                return self._class()
            case ".":
                return Characters((Class("."),))
            case "\\":
                if self.next and self.next in "bB":
                    return Boundary(negated=self._read_character() == "B")
                self._position -= 1
                if named := self._class_name():
                    return Characters((Class(named),))
                self._position += 1
                character = self._escaped()
            case "{":
                raise UnportablePattern("a literal { is not portable; write \\{")
            case "*" | "+" | "?":
                raise MalformedPattern(f"there is nothing for {character} to repeat")
        if UNWRITABLE.match(character):
            raise UnportablePattern("there is a control character")
        return Characters(((character, character),))

    def _group(self) -> Node:
        is_assertion = self._accept("?=") or self._accept("?!")
        negated = self._pattern[self._position - 1] == "!"
        if not is_assertion and not self._accept("?:") and self.next == "?":
            raise UnportablePattern("look-behind, flags and named groups are not supported")
        self._depth += 1
        if self._depth > _MAX_GROUP_DEPTH:
            raise UnportablePattern("its groups are nested too deeply")
        part = self.alternatives()
        if not self._accept(")"):
            raise MalformedPattern("it opens a group that it does not close")
        self._depth -= 1
        return LookAhead(part, negated) if is_assertion else part

    def _class(self) -> Characters:
        negated = self._accept("^")
        items: list[tuple[str, str] | Class] = []
        is_writable = negated
        while not self._accept("]"):
            item = self._class_item()
            items.append(item)
            is_writable |= isinstance(item, Class) or UNWRITABLE.match(item[1]) is None
        if not items:
            raise UnportablePattern("[] and [^] differ between dialects")
        if not is_writable:
            raise UnportablePattern("there are only control characters between [ and ]")
        return Characters(tuple(items), negated)

    def _class_item(self) -> tuple[str, str] | Class:
        """Parse a character, a range or a class in a class."""
        if name := self._class_name():
            if self._begins_range():
                raise UnportablePattern(f"\\{name} is the end of a range")
            return Class(name)
        first = self._class_character()
        if not self._begins_range():
            return first, first
        self._position += 1
        if name := self._class_name():
            raise UnportablePattern(f"\\{name} is the end of a range")
        last = self._class_character()
        if last < first:
            raise MalformedPattern(f"the range {first}-{last} is in the wrong order")
        return first, last

    def _begins_range(self) -> bool:
        return self.next == "-" and not self._pattern.startswith("-]", self._position)

    def _class_name(self) -> str:
        """Consume a class like \\d or \\p{L}, if one is next, and return it without its backslash."""
        if self.next != "\\":
            return ""
        letter = self._pattern[self._position + 1 : self._position + 2]
        match = _PROPERTY.match(self._pattern, self._position + 1)
        name = match[0] if match else letter
        if match is None and (not letter or letter not in _CLASS_LETTERS):
            return ""
        self._position += 1 + len(name)
        return name

    def _class_character(self) -> str:
        character = self._read_character()
        if character != "\\":
            return character
        return "\b" if self._accept("b") else self._escaped()

    def _escaped(self) -> str:
        """Return the character of an escape whose backslash is already consumed."""
        if match := _HEX.match(self._pattern, self._position):
            self._position = match.end()
            code = int(match[1] or match[2], 16)
            if 0xD800 <= code <= 0xDFFF:
                raise UnportablePattern("it has half a surrogate pair; write the character itself")
            return chr(code)
        letter = self._read_character()
        if letter in _CONTROLS:
            return _CONTROLS[letter]
        if letter.isascii() and not letter.isalnum():
            return letter
        raise UnportablePattern(f"\\{letter} is not supported")

    def _accept(self, text: str) -> bool:
        found = self._pattern.startswith(text, self._position)
        self._position += len(text) * found
        return found

    def _read_character(self) -> str:
        character = self.next
        if not character:
            raise MalformedPattern("it ends too early")
        self._position += 1
        return character
