"""Reads the arguments of a call in an ElementSyntax, and writes them as JSON in the style `{"a": 1, "b": [true]}`.

The characters of a string are written, escaped, as soon as they cannot be its end, nor a number or a word where one
may stand. A value of unknown type is what it looks like: a list, an object, a number, a word, or else a string.
"""

import json
import re
from collections.abc import Callable
from typing import Final

from dragoman.output.element_syntax import ITEM, ElementSyntax, ValueTypes
from dragoman.output.scanning import ANY_WHITESPACE, WHITESPACE, Atoms, overlap

_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORDS: Final = {"true": "boolean", "false": "boolean", "null": "null"}
_MAY_BECOME_NUMBER: Final = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]*)?)?")
_MAX_TAG_CHARACTERS: Final = 260
_CLOSING: Final = {"object": "}", "array": "]"}


class ElementArguments:
    """An ElementSyntax and the text that ends the arguments, prepared for parsing."""

    def __init__(self, syntax: ElementSyntax, tail: str) -> None:
        self.prefix = syntax.prefix
        self.tail = tail
        self.beginnings: list[Atoms] = [[ANY_WHITESPACE, *map(re.escape, f"{syntax.prefix}<")]]
        """What the first argument begins with, or the tail."""


class _Composite:
    """A list or an object that is open."""

    def __init__(self, kind: str, types: ValueTypes | None) -> None:
        self.kind = kind
        self._types = types
        self.count = 0

    def types_of(self, name: str) -> ValueTypes | None:
        """Return the types of the part with this name."""
        if self._types is None:
            return None
        if self.kind == "array":
            return self._types.items
        return self._types.members.get(name, self._types.others)


class ElementReader:
    """Reads the arguments of one call."""

    def __init__(self, syntax: ElementArguments, types: ValueTypes | None) -> None:
        """`types` are those of the arguments; None: they are unknown."""
        self._syntax = syntax
        self._open = [_Composite("object", types)]
        """The arguments, and the lists and objects in them that are open."""
        self._types: ValueTypes | None = None
        """Of the value that is being read."""
        self._step: Callable[[str], tuple[str, int] | None] = self._read_tag
        self._ended = False

    def read(self, text: str) -> tuple[str, int, bool]:
        """Return JSON, how many characters were read, and whether the arguments are complete.

        The characters that were not read must come again at the beginning of the next chunk.
        """
        written: list[str] = []
        position = 0
        while not self._ended and position < len(text) and (step := self._step(text[position:])) is not None:
            written.append(step[0])
            position += step[1]
        return "".join(written), position, self._ended

    # Each step gets at least one character, and returns JSON and how many it has read; None: it needs more of them.

    def _read_tag(self, text: str) -> tuple[str, int] | None:
        """Read the tag that opens the next part of what is open, or the one that closes it."""
        space = len(text) - len(text.lstrip(WHITESPACE))
        if space:
            return "", space
        tag = self._tag(text)
        if tag is None or isinstance(tag, bool):
            return None if tag is None else self._give_up()
        length = len(self._syntax.prefix) + len(tag)
        composite = self._open[-1]
        if not tag.startswith("</"):
            return self._open_part(composite, tag[1:-1]), length
        if len(self._open) > 1:
            self._open.pop()
            return _CLOSING[composite.kind], length
        if text[:length] != self._syntax.tail:
            return self._give_up()
        self._ended = True
        return "}" if composite.count else "{}", length

    def _tag(self, text: str) -> str | bool | None:
        """Return the tag at the beginning of a text, False if there is none, or None if there is a part of one."""
        prefix = self._syntax.prefix
        if len(text) <= len(prefix):
            return None if prefix.startswith(text) else False
        end = text.find(">", len(prefix))
        if not text.startswith(f"{prefix}<") or (end < 0 and len(text) > len(prefix) + _MAX_TAG_CHARACTERS):
            return False
        return None if end < 0 else text[len(prefix) : end + 1]

    def _open_part(self, composite: _Composite, name: str) -> str:
        composite.count += 1
        self._types = composite.types_of(name)
        self._step = self._read_value
        is_first = composite.count == 1
        if composite.kind == "array":
            return "" if is_first else ", "
        opening = "{" if len(self._open) == 1 else ""
        return f"{opening if is_first else ', '}{_encoded(name)}: "

    def _read_value(self, text: str) -> tuple[str, int] | None:
        """Read what shows whether a value is a list or an object, and its beginning if it is."""
        if self._types is not None and not self._types.kinds & {"array", "object"}:
            self._step = self._read_text
            return "", 0
        prefix = self._syntax.prefix
        start = text.lstrip(WHITESPACE)
        beginning = f"{prefix}<"
        if len(start) <= len(beginning):
            if beginning.startswith(start):
                return None
        elif start.startswith(beginning) and start[len(beginning)] != "/":
            return self._open_composite(start[len(prefix) :], len(text) - len(start))
        self._step = self._read_text
        return "", 0

    def _open_composite(self, tag: str, space: int) -> tuple[str, int] | None:
        item = f"<{ITEM}>"
        if len(tag) < len(item) and item.startswith(tag):
            return None
        kinds = {"array", "object"} if self._types is None else self._types.kinds
        is_list = tag.startswith(item) and "array" in kinds
        self._open.append(_Composite("array" if is_list else "object", self._types))
        self._step = self._read_tag
        return "[" if is_list else "{", space

    def _read_text(self, text: str) -> tuple[str, int] | None:
        """Read a value without elements in it, or its beginning if it must be a string."""
        found = text.find(self._syntax.prefix)
        end = found if found >= 0 else len(text) - overlap(text, self._syntax.prefix)
        if end and not self._may_be_no_string(text[:end]):
            self._step = self._read_string
            return '"', 0
        if found < 0:
            return None
        length = self._closing_length(text[found:])
        if length is None or length is False:
            return None if length is None else self._give_up("null")
        self._step = self._read_tag
        return self._whole(text[:found]), found + length

    def _read_string(self, text: str) -> tuple[str, int] | None:
        found = text.find(self._syntax.prefix)
        length = found if found >= 0 else len(text) - overlap(text, self._syntax.prefix)
        if found != 0:
            return (_encoded(text[:length])[1:-1], length) if length else None
        closing = self._closing_length(text)
        if closing is None or closing is False:
            return None if closing is None else self._give_up('"')
        self._step = self._read_tag
        return '"', closing

    def _closing_length(self, text: str) -> int | bool | None:
        """Return the length of the closing tag at the beginning of a text; False or None as `_tag`."""
        tag = self._tag(text)
        if tag is None or isinstance(tag, bool):
            return tag
        return len(self._syntax.prefix) + len(tag) if tag.startswith("</") else False

    def _may_be_no_string(self, part: str) -> bool:
        """Whether the beginning of a value may become another one than a string."""
        kinds = None if self._types is None else self._types.kinds
        if kinds is not None and "string" not in kinds:
            return True
        if kinds == {"string"}:
            return False
        return _MAY_BECOME_NUMBER.fullmatch(part) is not None or any(word.startswith(part) for word in _WORDS)

    def _whole(self, text: str) -> str:
        """Return the JSON of a whole value."""
        kinds = None if self._types is None else self._types.kinds
        if (scalar := kind_of_text(text)) is not None and (kinds is None or scalar in kinds):
            return text
        if kinds is None:
            return _encoded(text)
        stripped = text if "string" in kinds else text.strip(WHITESPACE)
        if not stripped:
            return next((empty for kind, empty in (("array", "[]"), ("object", "{}")) if kind in kinds), '""')
        return stripped if kind_of_text(stripped) in kinds else _encoded(text)

    def _give_up(self, missing: str = "") -> tuple[str, int]:
        """End the arguments at text that cannot stand there. `missing` completes the last part."""
        self._ended = True
        inner = "".join(_CLOSING[composite.kind] for composite in reversed(self._open[1:]))
        return f"{missing}{inner}{'}' if self._open[0].count else '{}'}", 0


def kind_of_text(text: str) -> str | None:
    """Return the type of the number or word that a text is; None: it is neither."""
    return "number" if _NUMBER.fullmatch(text) else _WORDS.get(text)


def _encoded(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
