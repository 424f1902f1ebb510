"""Regular expressions of JSON Schemas, rewritten so that all regex dialects agree about what they match.

JSON Schema specifies ECMA-262's dialect, validators use that of their language, and llguidance uses Rust's. The
rewritten pattern is in Rust's dialect. It matches only what ECMA-262 (without flags) and Python's `re` match as well:
`\\d` is ASCII, `\\W` excludes everything that either calls a letter, `.` excludes line separators. The wide form
matches what any of them matches.
"""

import re

_DIGITS = "0-9"
_LETTERS = "A-Za-z0-9_"
_SPACES = r"\t-\r\x20"
_ANY_DIGITS = r"\p{Nd}"
_ANY_LETTERS = r"\p{Alphabetic}\p{M}\p{N}\p{Pc}"
_ANY_SPACES = r"\t-\r\x1C-\x20\x85\xA0\u{1680}\u{180E}\u{2000}-\u{200A}\u{2028}\u{2029}\u{202F}\u{205F}\u{3000}\u{FEFF}"

_CLASSES = {"d": (_DIGITS, _ANY_DIGITS), "w": (_LETTERS, _ANY_LETTERS), "s": (_SPACES, _ANY_SPACES)}
"""Letter of a class → the characters that it has in every dialect, and in any dialect."""

_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}
_QUANTIFIER = re.compile(r"[*+?]|\{[0-9]+(?:,[0-9]*)?\}")
_HEX = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})")

UNWRITABLE = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")
"""Characters that JSON can only write as \\u00XX. This is not generated, since a name could have two spellings."""

_MAX_EXPANDED_CHARACTERS = 10_000
"""Limit of a pattern's length with its repetitions written out, which determines the time for its automaton."""


class MalformedPattern(ValueError):
    """The pattern is invalid in every dialect."""


class UnportablePattern(ValueError):
    """The pattern differs between dialects, or cannot be enforced."""


def portable_pattern(pattern: str, *, wide: bool = False) -> str:
    """Rewrite the pattern in Rust's dialect, without adding anchors. Raises MalformedPattern and UnportablePattern.

    It matches what every dialect matches; `wide`: what at least one of them matches.
    """
    rewriter = _PatternRewriter(pattern, wide)
    text, size = rewriter.alternatives()
    if rewriter.next:
        raise MalformedPattern("it closes a group that it did not open")
    if size > _MAX_EXPANDED_CHARACTERS:
        raise UnportablePattern("its repetitions are too large")
    return text


class _PatternRewriter:
    """A recursive-descent rewriter. Its methods return the rewritten text and its size with repetitions written out."""

    def __init__(self, pattern: str, wide: bool) -> None:
        self._pattern = pattern
        self._wide = wide
        self._anchors = 0
        self._position = 0
        self._depth = 0

    @property
    def next(self) -> str:
        """The next character; empty at the end."""
        return self._pattern[self._position : self._position + 1]

    def alternatives(self) -> tuple[str, int]:
        texts, total = [], 0
        while True:
            text, size = self._sequence()
            texts.append(text)
            total += size
            if not self._accept("|"):
                return "|".join(texts), total

    def _sequence(self) -> tuple[str, int]:
        texts: list[str] = []
        total = 0
        while self.next and self.next not in "|)":
            anchors = self._anchors
            if self._accept("^"):
                self._check_anchor("^", is_at_the_end=not any(text != "^" for text in texts))
                texts.append("^")
            elif self._accept("$"):
                self._check_anchor("$", is_at_the_end=self.next in "|)")
                texts.append(r"\n?$" if self._wide else "$")  # Python's $ matches before a last newline, too
            else:
                text, size = self._atom()
                quantifier, factor = self._quantifier()
                if self._anchors > anchors:
                    self._check_anchor("^ or $", is_at_the_end=not (texts or quantifier) and self.next in "|)")
                texts.append(text + quantifier)
                total += size * factor
        return "".join(texts), total

    def _check_anchor(self, anchor: str, is_at_the_end: bool) -> None:
        self._anchors += 1
        if not is_at_the_end:
            raise UnportablePattern(f"{anchor} is not at the edge of the pattern or of an alternative")

    def _quantifier(self) -> tuple[str, int]:
        match = _QUANTIFIER.match(self._pattern, self._position)
        if match is None:
            return "", 1
        self._position = match.end()
        self._accept("?")  # a lazy quantifier matches the same texts
        if _QUANTIFIER.match(self._pattern, self._position):
            raise MalformedPattern("it repeats a repetition")
        bounds = [int(number) for number in re.findall("[0-9]+", match[0])]
        if bounds != sorted(bounds):
            raise MalformedPattern(f"the bounds of {match[0]} are in the wrong order")
        return match[0], max([1, *bounds])

    def _atom(self) -> tuple[str, int]:
        character = self._read_character()
        match character:
            case "(":
                return self._group()
            case "[":
                return self._class(), 1
            case ".":
                return r"[^\n]" if self._wide else r"[^\n\r\u{2028}\u{2029}]", 1
            case "\\":
                self._position -= 1
                if letter := self._class_letter():
                    return f"[{_class_of(letter, self._wide)}]", 1
                self._position += 1
                character = self._escaped()
            case "{":
                raise UnportablePattern("a literal { is not portable; write \\{")
            case "*" | "+" | "?":
                raise MalformedPattern(f"there is nothing for {character} to repeat")
        if UNWRITABLE.match(character):
            raise UnportablePattern("there is a control character")
        return _literal(character), 1

    def _group(self) -> tuple[str, int]:
        if not self._accept("?:") and self.next == "?":
            raise UnportablePattern("look-around, flags and named groups are not supported")
        self._depth += 1
        if self._depth > 50:
            raise UnportablePattern("its groups are nested too deeply")
        text, size = self.alternatives()
        if not self._accept(")"):
            raise MalformedPattern("it opens a group that it does not close")
        self._depth -= 1
        return f"(?:{text})", size

    def _class(self) -> str:
        negated = self._accept("^")
        items: list[str] = []
        is_writable = negated
        while not self._accept("]"):
            item, last = self._class_item(negated)
            items.append(item)
            is_writable |= UNWRITABLE.match(last) is None
        if not items:
            raise UnportablePattern("[] and [^] differ between dialects")
        if not is_writable:
            raise UnportablePattern("there are only control characters between [ and ]")
        return f"[{'^' if negated else ''}{''.join(items)}]"

    def _class_item(self, negated: bool) -> tuple[str, str]:
        """Rewrite a character, a range or a class in a class; return it and its last character."""
        if letter := self._class_letter():
            if self._begins_range():
                raise UnportablePattern(f"\\{letter} is the end of a range")
            return _class_of(letter, self._wide is not negated), " "
        first = self._class_character()
        if not self._begins_range():
            return _literal(first), first
        self._position += 1
        if letter := self._class_letter():
            raise UnportablePattern(f"\\{letter} is the end of a range")
        last = self._class_character()
        if last < first:
            raise MalformedPattern(f"the range {first}-{last} is in the wrong order")
        return f"{_literal(first)}-{_literal(last)}", last

    def _begins_range(self) -> bool:
        return self.next == "-" and not self._pattern.startswith("-]", self._position)

    def _class_letter(self) -> str:
        """Consume a class like \\d, if one is next, and return its letter."""
        letter = self._pattern[self._position + 1 : self._position + 2]
        if self.next != "\\" or letter.lower() not in _CLASSES:
            return ""
        self._position += 2
        return letter

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


def _class_of(letter: str, wide: bool) -> str:
    """Rewrite a class like \\d or \\W for use between [ and ]."""
    common, any_of = _CLASSES[letter.lower()]
    if letter.islower():
        return any_of if wide else common
    return f"[^{common if wide else any_of}]"


def _literal(character: str) -> str:
    """Escape one character for Rust's dialect, inside and outside a class."""
    if character.isascii() and not character.isalnum():
        return f"\\x{ord(character):02X}"
    return character
