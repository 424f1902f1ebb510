"""Sets of characters as sorted ranges of code points."""

import functools
import sys
import unicodedata
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from dragoman.output.grammar.pattern_syntax import Class, UnportablePattern

Ranges = tuple[tuple[int, int], ...]
"""Sorted code points, first and last, that neither overlap nor touch."""

ALL_CHARACTERS: Final[Ranges] = ((0, sys.maxunicode),)

ASCII_LETTERS: Final[Ranges] = ((48, 57), (65, 90), (95, 95), (97, 122))
"""The characters of `\\w` in every dialect."""

NO_LETTERS: Final[Ranges] = (
    *((0, 47), (58, 64), (91, 94), (96, 96), (123, 127)),
    *((0x2010, 0x2027), (0x2030, 0x203E), (0x20A0, 0x20BF), (0x3001, 0x3003), (0x3008, 0x3011)),
)
"""Characters that no dialect calls a letter: those of ASCII, and the more usual ones of the others."""

_ASCII_CLASSES: Final[dict[str, Ranges]] = {"d": ((48, 57),), "w": ASCII_LETTERS, "s": ((9, 13), (32, 32))}
_LINE_ENDS: Final[Ranges] = ((10, 10), (13, 13), (0x2028, 0x2029))
_MORE_SPACES: Final[Ranges] = ((28, 31), (0x85, 0x85), (0x180E, 0x180E), (0xFEFF, 0xFEFF))
_ENCLOSED_LETTERS: Final[Ranges] = ((0x24B6, 0x24E9), (0x1F130, 0x1F149), (0x1F150, 0x1F169), (0x1F170, 0x1F189))
_LETTER_CATEGORIES: Final = ("L", "M", "N", "Pc", "Cn")
"""General categories of what some dialect calls a letter. Later versions of Unicode assign more of Cn."""


def ranges_of(items: tuple[tuple[str, str] | Class, ...], negated: bool, wide: bool) -> Ranges:
    """Return the characters of a class in a pattern; `wide` has the meaning of `portable_pattern`.

    Raises UnportablePattern for properties such as `\\p{L}`.
    """
    ranges: list[tuple[int, int]] = []
    for item in items:
        if isinstance(item, Class):
            ranges += class_ranges(item.name, wide is not negated)
        else:
            ranges.append((ord(item[0]), ord(item[1])))
    return complement(ranges) if negated else merged(ranges)


@functools.cache
def class_ranges(name: str, wide: bool) -> Ranges:
    """Return the characters of `.`, `\\d`, `\\W` and the like. Raises UnportablePattern for others."""
    match name:
        case ".":
            return complement(_LINE_ENDS[:1] if wide else _LINE_ENDS)
        case "d":
            return _category("Nd") if wide else _ASCII_CLASSES[name]
        case "s":
            return merged([*_ASCII_CLASSES[name], *_category("Z"), *_MORE_SPACES]) if wide else _ASCII_CLASSES[name]
        case "w":
            letters = [part for category in _LETTER_CATEGORIES for part in _category(category)]
            return merged([*ASCII_LETTERS, *letters, *_ENCLOSED_LETTERS]) if wide else ASCII_LETTERS
        case "D" | "S" | "W":
            return complement(class_ranges(name.lower(), not wide))
    raise UnportablePattern(f"\\{name} beside an assertion is not supported")


def merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Sort ranges and merge those that overlap or touch."""
    result: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(last, result[-1][1]))
        else:
            result.append((first, last))
    return tuple(result)


def contains(ranges: Ranges, code: int) -> bool:
    """Whether a code point is in one of the ranges."""
    position = bisect_right(ranges, (code, sys.maxunicode)) - 1
    return position >= 0 and code <= ranges[position][1]


def complement(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return all other characters."""
    gaps, start = [], 0
    for first, last in merged(ranges):
        if start < first:
            gaps.append((start, first - 1))
        start = last + 1
    return (*gaps, (start, sys.maxunicode)) if start <= sys.maxunicode else tuple(gaps)


def _category(name: str) -> Ranges:
    """Return the code points whose general category begins with `name`."""
    return merged(part for category, ranges in _categories().items() if category.startswith(name) for part in ranges)


@functools.cache
def _categories() -> dict[str, list[tuple[int, int]]]:
    """Return the code points of each general category, which takes some tenths of a second."""
    categories: dict[str, list[tuple[int, int]]] = defaultdict(list)
    start, current = 0, unicodedata.category("\0")
    for code in range(1, sys.maxunicode + 1):
        if (category := unicodedata.category(chr(code))) != current:
            categories[current].append((start, code - 1))
            start, current = code, category
    categories[current].append((start, sys.maxunicode))
    return categories
