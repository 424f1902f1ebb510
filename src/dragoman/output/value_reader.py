"""Reads the arguments of a call in a ValueSyntax, and writes them as JSON in the style `{"a": 1, "b": [true]}`.

The characters of a string are written, escaped, as soon as they cannot be its end. White space may differ. Words,
names and quotes of all syntaxes are read. A value that is none becomes a string.
"""

import json
import re
from collections.abc import Callable
from typing import Final

from dragoman.output.scanning import ANY_WHITESPACE, WHITESPACE, Atoms, overlap
from dragoman.output.value_syntax import NAME_PATTERN, ValueSyntax

_WORDS: Final = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_BARE: Final = re.compile(r"[^\s,:=()\[\]{}]+")
_ESCAPE: Final = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([^xuU]))", re.DOTALL)
_CUT_ESCAPE: Final = re.compile(r"\\(?:x[0-9a-fA-F]?|u[0-9a-fA-F]{0,3}|U[0-9a-fA-F]{0,7})?")
_ESCAPED: Final = {
    **dict(zip("nrtbfav0", "\n\r\t\b\f\a\v\0", strict=True)),
    **dict(zip("\\\"'/", "\\\"'/", strict=True)),
    "\n": "",
}
_CLOSING: Final = {"[": "]", "{": "}"}


class ArgumentSyntax:
    """A ValueSyntax and the text that ends the arguments, prepared for parsing."""

    def __init__(self, values: ValueSyntax, tail: str) -> None:
        self.values = values
        self.tail = tail
        self.argument = _Name(values.after_argument)
        self.member = _Name(values.after_name)
        names = [[NAME_PATTERN, ANY_WHITESPACE, re.escape(self.argument.end)]]
        if not values.quotes_names:
            names.append([*map(re.escape, values.quotes[0])])
        self.beginnings: list[Atoms] = [[ANY_WHITESPACE, *shape] for shape in ([re.escape(tail)], *names)]
        """What the first argument begins with, or a call without arguments."""


class _Name:
    """A name without quotes, and what follows it."""

    def __init__(self, after_name: str) -> None:
        self.end = after_name.strip()
        self.whole = re.compile(rf"({NAME_PATTERN})[{WHITESPACE}]*{re.escape(self.end)}")
        self.beginning = re.compile(rf"{NAME_PATTERN}[{WHITESPACE}]*")


class ValueReader:
    """Reads the arguments of one call."""

    def __init__(self, syntax: ArgumentSyntax) -> None:
        self._syntax = syntax
        self._closings = [syntax.tail]
        """The ends of the arguments, and of the lists and objects in them that are open."""
        self._counts = [0]
        """How many parts each of these has."""
        self._quote = ""
        """The end of the string that is being read."""
        self._is_name = False
        """Whether that string is a name."""
        self._step: Callable[[str], tuple[str, int] | None] = self._read_part
        self._ended = False

    def read(self, text: str) -> tuple[str, int, bool]:
        """Return JSON, how many characters were read, and whether the arguments are complete.

        The characters that were not read must come again at the beginning of the next chunk.
        """
        written: list[str] = []
        position = 0
        while not self._ended:
            # White space is nothing between values, and nothing ends within it.
            while not self._quote and position < len(text) and text[position] in WHITESPACE:
                position += 1
            if position == len(text) or (step := self._step(text[position:])) is None:
                break
            written.append(step[0])
            position += step[1]
        return "".join(written), position, self._ended

    # Each step gets at least one character, and returns JSON and how many it has read; None: it needs more of them.

    def _read_part(self, text: str) -> tuple[str, int] | None:
        """Read the beginning of a part of what is open, or its end."""
        if text.startswith(self._closings[-1]):
            return self._close()
        return self._read_value(text) if self._closings[-1] == "]" else self._read_name(text)

    def _read_name(self, text: str) -> tuple[str, int] | None:
        for quote in self._syntax.values.quotes:
            if text.startswith(quote):
                return self._open_string(quote, is_name=True)
            if quote.startswith(text):
                return None
        match = self._name.whole.match(text)
        if match is not None:
            self._step = self._read_value
            return f"{self._next()}{_encoded(match[1])}: ", match.end()
        return None if self._name.beginning.fullmatch(text) else self._give_up("")

    def _read_colon(self, text: str) -> tuple[str, int] | None:
        if not text.startswith(self._name.end):
            return self._give_up(": null")
        self._step = self._read_value
        return ": ", len(self._name.end)

    def _read_value(self, text: str) -> tuple[str, int] | None:
        for quote in self._syntax.values.quotes:
            if text.startswith(quote):
                return self._open_string(quote)
            if quote.startswith(text):
                return None
        in_list = self._closings[-1] == "]"
        if text[0] in _CLOSING:
            comma = self._next() if in_list else ""
            self._closings.append(_CLOSING[text[0]])
            self._counts.append(0)
            self._step = self._read_part
            return comma + text[0], 1
        match = _BARE.match(text)
        if match is None:
            return self._give_up("" if in_list else "null")
        if match.end() == len(text):
            return None
        comma = self._next() if in_list else ""
        self._step = self._read_separator
        value = match[0] if _NUMBER.fullmatch(match[0]) else _WORDS.get(match[0])
        return comma + (_encoded(match[0]) if value is None else value), match.end()

    def _read_separator(self, text: str) -> tuple[str, int] | None:
        if text.startswith(self._closings[-1]):
            return self._close()
        if not text.startswith(","):
            return self._give_up("")
        self._step = self._read_part
        return "", 1

    def _open_string(self, quote: str, *, is_name: bool = False) -> tuple[str, int]:
        comma = self._next() if is_name or self._closings[-1] == "]" else ""
        self._quote, self._is_name = quote, is_name
        self._step = self._read_string
        return f'{comma}"', len(quote)

    def _read_string(self, text: str) -> tuple[str, int] | None:
        if text.startswith(self._quote):
            length = len(self._quote)
            self._quote = ""
            self._step = self._read_colon if self._is_name else self._read_separator
            return '"', length
        if not self._syntax.values.escapes:
            found = text.find(self._quote)
            length = found if found >= 0 else len(text) - overlap(text, self._quote)
            return (_inner(text[:length]), length) if length else None
        if text[0] == "\\":
            return _unescaped(text)
        ends = [position for position in (text.find("\\"), text.find(self._quote)) if position >= 0]
        length = min(ends, default=len(text))
        return _inner(text[:length]), length

    def _close(self) -> tuple[str, int]:
        closing, count = self._closings.pop(), self._counts.pop()
        self._step = self._read_separator
        if self._closings:
            return closing, len(closing)
        self._ended = True
        return "}" if count else "{}", len(closing)

    def _give_up(self, missing: str) -> tuple[str, int]:
        """End the arguments at text that cannot stand there. `missing` completes the last part."""
        self._ended = True
        inner = "".join(reversed(self._closings[1:]))
        return f"{missing}{inner}{'}' if self._counts[0] else '{}'}", 0

    def _next(self) -> str:
        """Return what stands before the next part."""
        self._counts[-1] += 1
        if self._counts[-1] > 1:
            return ", "
        return "{" if len(self._counts) == 1 else ""

    @property
    def _name(self) -> _Name:
        return self._syntax.argument if len(self._closings) == 1 else self._syntax.member


def _unescaped(text: str) -> tuple[str, int] | None:
    """Read an escape. One that is none stands for itself, as in Python."""
    if _CUT_ESCAPE.fullmatch(text):
        return None
    match = _ESCAPE.match(text)
    if match is None:
        return "\\\\", 1
    if match[4] is not None:
        return _inner(_ESCAPED.get(match[4], match[0])), match.end()
    code = int(match[1] or match[2] or match[3], 16)
    if 0xD800 <= code < 0xE000:
        return f"\\u{code:04x}", match.end()  # half of a pair, which is whole in JSON
    return _inner(chr(code) if code <= 0x10FFFF else match[0]), match.end()


def _encoded(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _inner(text: str) -> str:
    return _encoded(text)[1:-1]
