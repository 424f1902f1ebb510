"""Reads the arguments of a call that has a tagged value for each parameter, and writes them as JSON.

The characters of a string are written, escaped, as soon as they cannot be the closing tag. The style is that of
generated JSON: `{"a": 1, "b": "c"}`.
"""

import json
from collections.abc import Callable, Mapping
from typing import NoReturn

from dragoman.output.markup import ParameterMarkup
from dragoman.output.scanning import (
    WHITESPACE,
    Atoms,
    ExpectedMarkup,
    JsonValueScanner,
    atoms_of_parameter,
    atoms_of_words,
    overlap,
)

StringParameters = Mapping[str, Mapping[str, bool]]
"""For each tool, the names of its parameters that are strings → whether they may be null. All others are JSON."""


class ParameterSyntax:
    """The markup of parameters, prepared for parsing."""

    def __init__(self, markup: ParameterMarkup, tail: str) -> None:
        """`tail` follows the last parameter."""
        self.markup = markup
        names = markup.name_pattern
        heads = [atoms_of_parameter(markup.before_name, names, markup.after_name)]
        if markup.after_name_of_json is not None:
            heads.append(atoms_of_parameter(markup.before_name, names, markup.after_name_of_json))
        self.beginnings: list[Atoms] = [atoms_of_words(markup.before_name), atoms_of_words(tail)]
        """What the first parameter begins with, or a call without parameters."""
        self.next = ExpectedMarkup(atoms_of_words(tail), *heads)
        self.close = ExpectedMarkup(atoms_of_words(markup.close))


class TaggedArguments:
    """Reads the arguments of one call."""

    def __init__(self, syntax: ParameterSyntax, strings: Mapping[str, bool] | None) -> None:
        """`strings` has an item of StringParameters; None: JSON is what can be read as JSON."""
        self._syntax = syntax
        self._strings = strings
        self._count = 0
        self._padding = ""
        """Text that may stand before the value's first character."""
        self._after_string = ""
        """Text that may stand between a string and the closing tag."""
        self._value = JsonValueScanner()
        self._is_before_value = False
        self._step: Callable[[str], tuple[str, int] | None] = self._read_head
        self._ended = False

    def read(self, text: str) -> tuple[str, int, bool]:
        """Return JSON, how many characters were read, and whether the arguments are complete.

        The characters that were not read must come again at the beginning of the next chunk.
        """
        written: list[str] = []
        position = 0
        while not self._ended and (step := self._step(text[position:])) is not None:
            written.append(step[0])
            position += step[1]
        return "".join(written), position, self._ended

    # Each step returns JSON and the number of characters that were read; None: it needs more of them.

    def _read_head(self, text: str) -> tuple[str, int] | None:
        match = self._syntax.next.match(text)
        if match is None:
            return None if self._syntax.next.matches_prefix(text) else self._end(0)
        if match.lastindex is None:
            return self._end(match.end())
        name = match[match.lastindex]
        opening = f"{', ' if self._count else '{'}{_encoded(name)}: "
        self._count += 1
        self._padding = self._syntax.markup.padding
        marks_kind = self._syntax.markup.after_name_of_json is not None
        if match.lastindex == 1 and (marks_kind or (self._strings is not None and name in self._strings)):
            self._begin_string()
            if self._strings is None or marks_kind or not self._strings[name]:
                return f'{opening}"', match.end()
            self._step = self._read_nullable
            return opening, match.end()
        self._value, self._is_before_value = JsonValueScanner(), True
        self._step = self._read_unknown if self._strings is None else self._read_json
        return opening, match.end()

    def _read_nullable(self, text: str) -> tuple[str, int] | None:
        """Read null, or the beginning of a string."""
        markup = self._syntax.markup
        null = f"{markup.padding}null{markup.padding}{markup.close}"
        if text.startswith(null):
            self._step = self._read_head
            return "null", len(null)
        if null.startswith(text):
            return None
        self._begin_string()
        return '"', 0

    def _begin_string(self) -> None:
        self._step = self._read_string if self._syntax.markup.wrapper is None else self._read_wrapper
        self._after_string = self._syntax.markup.padding

    def _read_wrapper(self, text: str) -> tuple[str, int] | None:
        assert self._syntax.markup.wrapper is not None
        opening, closing = self._syntax.markup.wrapper
        is_wrapped = text.startswith(opening)
        if not is_wrapped and opening.startswith(text):
            return None
        self._step = self._read_string
        if is_wrapped:
            self._after_string = closing
        return "", len(opening) if is_wrapped else 0

    def _read_string(self, text: str) -> tuple[str, int] | None:
        markup = self._syntax.markup
        if self._padding:
            if len(text) < len(self._padding) and self._padding.startswith(text):
                return None
            skipped = len(self._padding) if text.startswith(self._padding) else 0
            self._padding = ""
            return "", skipped
        found = text.find(markup.close)
        if found >= 0:
            self._step = self._read_head
            return f'{_escaped(text[:found].removesuffix(self._after_string))}"', found + len(markup.close)
        held = max(overlap(text, markup.close), overlap(text, self._after_string + markup.close))
        return (_escaped(text[: len(text) - held]), len(text) - held) if held < len(text) else None

    def _read_json(self, text: str) -> tuple[str, int] | None:
        """Read a value that a grammar made, so that it is JSON."""
        if self._is_before_value:
            space = len(text) - len(text.lstrip(WHITESPACE))
            if space == len(text):
                return ("", space) if space else None
            self._is_before_value = False
            return "", space
        part, length, is_complete = self._value.read(text)
        if is_complete:
            self._step = self._read_close
        return (part, length) if length or is_complete else None

    def _read_unknown(self, text: str) -> tuple[str, int] | None:
        """Read a value of unknown type as JSON, if it is JSON, or as a string."""
        markup = self._syntax.markup
        found = text.find(markup.close)
        if found < 0:
            return None
        self._step = self._read_head
        value = text[:found].removeprefix(markup.padding).removesuffix(markup.padding)
        opening, closing = markup.wrapper or ("", "")
        if opening and value.startswith(opening):
            return _encoded(value.removeprefix(opening).removesuffix(closing)), found + len(markup.close)
        return value.strip(WHITESPACE) if _is_json(value) else _encoded(value), found + len(markup.close)

    def _read_close(self, text: str) -> tuple[str, int] | None:
        match = self._syntax.close.match(text)
        if match is None:
            return None if self._syntax.close.matches_prefix(text) else self._end(0)
        self._step = self._read_head
        return "", match.end()

    def _end(self, length: int) -> tuple[str, int]:
        self._ended = True
        return "}" if self._count else "{}", length


def _encoded(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _escaped(text: str) -> str:
    return _encoded(text)[1:-1]


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")
