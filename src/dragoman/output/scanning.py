"""Scanning of text that arrives in chunks, for the end of a JSON value and for expected markup."""

import re
from collections.abc import Sequence

from dragoman.output.markup import ID, PLACEHOLDERS, split_at_placeholders

WHITESPACE = " \t\r\n"

MAX_HELD_WHITESPACE = 1024
"""More than any model writes before markup. Each token looks through what is held: without a bound, ever longer."""

ANY_WHITESPACE = f"[{WHITESPACE}]{{0,64}}"
_NAME = r"[\w.:/-]{1,128}"
_VALUE_FOLLOWS = r'(?=[{\["\-0-9tfn])'
_WORD = re.compile(r'"\w+"|"|[^\s\w"]')

Atoms = list[str]
"""Regular expressions that match one after another; for literal text, one for each character."""


def overlap(text: str, marker: str) -> int:
    """Return the length of the longest proper prefix of `marker` that `text` ends with."""
    longest = min(len(text), len(marker) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(marker[:length])), 0)


def end_of_text(text: str, end: int) -> int:
    """Return where the text before `end` ends: whitespace after it is held, since markup may follow it."""
    return max(len(text[:end].rstrip(WHITESPACE)), end - MAX_HELD_WHITESPACE)


def atoms_of_words(text: str) -> Atoms:
    """Match the words of `text` with optional whitespace before each."""
    return [atom for word in text.split() for atom in (ANY_WHITESPACE, *map(re.escape, word))]


def atoms_of_head(before_name: str, after_name: str, *, before_json: bool = True) -> Atoms:
    """Match the text before a call's arguments, such as `{"name": "` and `", "arguments": ` around a name.

    The groups are the name and, in the order of the text, the id if there is one. White space that alone stands between
    the name and JSON must be there as it is.
    """
    quote = '"' if before_name.endswith('"') else ""
    name = [ANY_WHITESPACE, quote, f"({_NAME})", quote] if quote else [f"({_NAME})"]
    after_name = after_name.removeprefix(quote)
    after = _atoms_of_parts(after_name, in_json=before_json)
    if before_json and not after:
        after = [*map(re.escape, after_name)]
    return [
        *_atoms_of_parts(before_name.removesuffix(quote), in_json=before_json),
        *name,
        *after,
        *([ANY_WHITESPACE, _VALUE_FOLLOWS] if before_json else []),
    ]


def atoms_of_call(before_name: str, after_name: str) -> Atoms:
    """Match the text before a call's arguments that are no JSON, such as `call:` and `{` around a name."""
    before = atoms_of_words(before_name)
    return [*before, *([] if before else [ANY_WHITESPACE]), f"({_NAME})", *map(re.escape, after_name)]


def atoms_of_parameter(before_name: str, name_pattern: str, after_name: str) -> Atoms:
    """Match the text before a parameter's value, such as `<parameter=` and `>` around its name."""
    after, *rest = split_at_placeholders(after_name)
    more = [atom for part in rest for atom in ([PLACEHOLDERS[part]] if part in PLACEHOLDERS else atoms_of_words(part))]
    return [*atoms_of_words(before_name), f"({name_pattern})", *atoms_of_words(after)[1:], *more]


def _atoms_of_parts(text: str, *, in_json: bool) -> Atoms:
    """Match text with variable parts, of which the id is a group. Within JSON, whitespace may differ."""
    atoms: Atoms = []
    for part in split_at_placeholders(text):
        if part in PLACEHOLDERS:
            atoms.append(f"({PLACEHOLDERS[part]})" if part == ID else PLACEHOLDERS[part])
        else:
            atoms += atoms_of_words(" ".join(_WORD.findall(part)) if in_json and part[0] in '{"' else part)
    return atoms


class ExpectedMarkup:
    """Text that must come next: one of several shapes, each a sequence of atoms. A shape with groups opens a call."""

    def __init__(self, *shapes: Atoms, heads: Sequence[Atoms] = (), after_head: Sequence[Atoms] = ([],)) -> None:
        """`heads` are further shapes. One of `after_head` must follow them, but is not matched."""
        following = "|".join("".join(shape) for shape in after_head)
        full = [*map("".join, shapes), *(f"{''.join(head)}(?={following})" for head in heads)]
        self._full_pattern = re.compile("|".join(full))
        prefixes = [*shapes, *([*head, *after] for head in heads for after in after_head)]
        self._prefix_pattern = re.compile("|".join(map(_prefix_pattern, prefixes)))

    @property
    def opens_call(self) -> bool:
        """Whether a shape is the head of a call."""
        return self._full_pattern.groups > 0

    def match(self, text: str) -> re.Match[str] | None:
        """Match a complete shape at the beginning of `text`."""
        return self._full_pattern.match(text)

    def matches_prefix(self, text: str) -> bool:
        """Whether `text` is a prefix of one of the shapes."""
        return self._prefix_pattern.fullmatch(text) is not None


def _prefix_pattern(shape: Atoms) -> str:
    """Return a pattern for the prefixes of a shape: (?:a(?:b(?:c)?)?)? for a, b, c."""
    pattern = ""
    for atom in reversed(shape):
        pattern = f"(?:{atom}{pattern})?"
    return pattern


class JsonValueScanner:
    """Finds the end of a JSON value by its brackets and strings, without further checks."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def read(self, text: str) -> tuple[str, int, bool]:
        """Return the part of the value in the next chunk, how many characters were read, and whether it is complete."""
        end = self.end(text)
        part = text[:end]
        return part, len(part), end is not None

    def end(self, text: str) -> int | None:
        """Return how many characters of the next chunk belong to the value; None: all, and it may continue."""
        for position, character in enumerate(text):
            if self._in_string:
                if self._escaped or character == "\\":
                    self._escaped = not self._escaped
                elif character == '"':
                    self._in_string = False
                    if not self._depth:
                        return position + 1
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]" and self._depth:
                self._depth -= 1
                if not self._depth:
                    return position + 1
            elif not self._depth and not (character.isalnum() or character in "+-."):
                return position
        return None
