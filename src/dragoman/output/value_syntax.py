"""How calls write their arguments that are neither JSON nor tagged: name=value, with literals of Python, or Gemma's."""

import json
import re
from typing import Any, Final

import msgspec

NAME_PATTERN: Final = r"[\w.$/@-]{1,128}"
"""The regular expression of names that stand without quotes."""


class ValueSyntax(msgspec.Struct, frozen=True, kw_only=True):
    """The syntax of arguments and of the values in them.

    NAME after_argument VALUE separator (...)

    Numbers are those of JSON. Lists stand in [...], objects in {...}, with `separator` between their parts.
    """

    after_argument: str
    after_name: str
    """What follows a name in an object."""
    quotes_names: bool
    """Whether names in objects stand in quotes. Other names do if they need them."""
    separator: str
    quotes: tuple[str, ...]
    """Texts on both sides of a string; the first is the one that is written."""
    escapes: bool
    """Whether strings have escapes, as Python's and JSON's have; otherwise they cannot contain their quotes."""
    words: tuple[str, str, str] = ("true", "false", "null")
    sorts_names: bool = False
    """Whether models write names in alphabetical order, in which the templates show them. Grammars require it."""

    def word(self, value: bool | None) -> str:
        """Return the word for true, false or null."""
        return self.words[2 if value is None else 0 if value else 1]

    def bare_name(self, name: str, *, in_object: bool) -> bool:
        """Whether a name stands without quotes."""
        return not (in_object and self.quotes_names) and re.fullmatch(NAME_PATTERN, name) is not None

    def can_have_argument(self, name: str) -> bool:
        """Whether an argument may have this name."""
        if self.bare_name(name, in_object=False):
            return True
        return not self.quotes_names and self.quotes[0] not in name

    def can_have(self, value: Any) -> bool:
        """Whether a value can be written."""
        try:
            self.value(value)
        except ValueError:
            return False
        return True

    def string(self, text: str) -> str:
        """Write a string. Raises ValueError if it has the quotes in it and there are no escapes."""
        if self.escapes:
            return json.dumps(text, ensure_ascii=False)
        if self.quotes[0] in text:
            raise ValueError(f"a string with {self.quotes[0]} in it cannot be written in this model's calls")
        return f"{self.quotes[0]}{text}{self.quotes[0]}"

    def value(self, value: Any) -> str:
        """Write a value of JSON. Raises ValueError as `string` does."""
        if isinstance(value, bool) or value is None:
            return self.word(value)
        if isinstance(value, str):
            return self.string(value)
        if isinstance(value, list):
            return f"[{self.separator.join(map(self.value, value))}]"
        if isinstance(value, dict):
            members = (f"{self._name(name, in_object=True)}{self.value(part)}" for name, part in value.items())
            return f"{{{self.separator.join(members)}}}"
        return json.dumps(value)

    def arguments(self, values: dict[str, Any]) -> str:
        """Write arguments, without the text around them. Raises ValueError as `string` does."""
        return self.separator.join(f"{self._name(name, in_object=False)}{self.value(v)}" for name, v in values.items())

    def _name(self, name: str, *, in_object: bool) -> str:
        written = name if self.bare_name(name, in_object=in_object) else self.string(name)
        return written + (self.after_name if in_object else self.after_argument)


PYTHON: Final = ValueSyntax(
    after_argument="=",
    after_name=": ",
    quotes_names=True,
    separator=", ",
    quotes=('"', "'"),
    escapes=True,
    words=("True", "False", "None"),
)
"""Keyword arguments of Python, with its literals."""


def gemma(quotes: str, *, sorts_names: bool = False) -> ValueSyntax:
    """Return the syntax of Gemma's models: objects with bare names, and strings between tokens."""
    return ValueSyntax(
        after_argument=":",
        after_name=":",
        quotes_names=False,
        separator=",",
        quotes=(quotes,),
        escapes=False,
        sorts_names=sorts_names,
    )
