"""How calls write their arguments as elements, which are named after the parameters, within each other."""

import json
import re
from typing import Any, Final

import msgspec

ITEM: Final = "item"
"""The name of the elements of a list."""

_NAME: Final = re.compile(r"[^\r\n<>/][^\r\n<>]{0,255}")


class ElementSyntax(msgspec.Struct, frozen=True, kw_only=True):
    """The syntax of arguments and of the values in them.

    (prefix<NAME>VALUE prefix</NAME>) (...)

    A string stands as it is, without `prefix` in it. Numbers, true, false and null are those of JSON. An object is
    elements again, and a list is elements named item.
    """

    prefix: str

    def can_have_argument(self, name: str) -> bool:
        """Whether an argument, or a member of an object, may have this name."""
        return _NAME.fullmatch(name) is not None

    def string(self, text: str) -> str:
        """Write a string. Raises ValueError if it has the prefix in it."""
        if self.prefix in text:
            raise ValueError(f"a string with {self.prefix} in it cannot be written in this model's calls")
        return text

    def value(self, value: Any) -> str:
        """Write a value of JSON. Raises ValueError for what cannot be written."""
        match value:
            case str():
                return self.string(value)
            case list():
                return "".join(self._element(ITEM, part) for part in value)
            case dict():
                return self.arguments(value)
        return json.dumps(value)

    def arguments(self, values: dict[str, Any]) -> str:
        """Write arguments, without the text around them. Raises ValueError for what cannot be written."""
        for name in values:
            if not self.can_have_argument(name):
                raise ValueError(f"the name {name!r} cannot be written in this model's calls")
        return "".join(self._element(name, value) for name, value in values.items())

    def _element(self, name: str, value: Any) -> str:
        return f"{self.prefix}<{name}>{self.value(value)}{self.prefix}</{name}>"


class ValueTypes:
    """What a value may be, as far as its text does not show it: 3 may be a number or a string.

    Values refer to themselves if their schemas do.
    """

    def __init__(self) -> None:
        self.kinds: set[str] = set()
        """The types of JSON that the value may have. Integers are numbers."""
        self.members: dict[str, ValueTypes] = {}
        """Of an object's members, by their names."""
        self.others: ValueTypes | None = None
        """Of an object's members with other names; None: unknown."""
        self.items: ValueTypes | None = None
        """Of a list's items; None: unknown."""
