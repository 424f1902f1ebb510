"""Rewrites patterns with assertions into equivalent ones without, since llguidance knows no assertions.

The derivatives of the pattern's language are the states of an automaton. Eliminating them one after the other gives a
pattern again.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from dragoman.output.grammar.character_ranges import Ranges, complement, contains, merged
from dragoman.output.grammar.pattern_language import NOTHING, Derivatives, Language, has_empty_text
from dragoman.output.grammar.pattern_meaning import language_of
from dragoman.output.grammar.pattern_syntax import Node, UnportablePattern
from dragoman.output.grammar.time_limit import check_time

_MAX_STATES = 300
_MAX_CHARACTERS = 20_000
"""Limit of the pattern while states are eliminated."""

_FIRST_SURROGATE, _LAST_SURROGATE = 0xD800, 0xDFFF


def equivalent_pattern(node: Node, *, wide: bool) -> str:
    """Return a pattern with anchors at both ends and no assertion that matches the texts in which `node` is found.

    `wide` has the meaning of `portable_pattern`. Raises UnportablePattern if it is too complex, or matches no text.
    """
    return _eliminated(*_automaton(language_of(node, wide=wide)))


_Automaton = list[dict[int, list[tuple[int, int]]]]
"""For each state: following state → ranges of characters. State 0 is the first."""


def _automaton(language: Language) -> tuple[_Automaton, set[int]]:
    """Return the automaton of a language and its accepting states."""
    blocks = _blocks(set(_sets(language)))
    derive = Derivatives().derive
    numbers = {language: 0}
    states = [language]
    edges: _Automaton = []
    for state in states:  # grows while it is read
        targets: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for ranges in blocks:
            following = derive(state, ranges[0][0])
            if following == NOTHING:
                continue
            if following not in numbers:
                numbers[following] = len(states)
                states.append(following)
                if len(states) > _MAX_STATES:
                    raise UnportablePattern("its assertions are too complex")
            targets[numbers[following]] += ranges
        edges.append(targets)
    return _minimized(edges, {number for state, number in numbers.items() if has_empty_text(state)})


def _blocks(sets: set[Ranges]) -> list[list[tuple[int, int]]]:
    """Divide all characters into blocks of those that are in the same sets."""
    starts = sorted({0, *(edge for ranges in sets for first, last in ranges for edge in (first, last + 1))})
    blocks: dict[tuple[bool, ...], list[tuple[int, int]]] = defaultdict(list)
    for start, following in zip(starts, [*starts[1:], sys.maxunicode + 1], strict=True):
        if start <= sys.maxunicode and not _FIRST_SURROGATE <= start < following <= _LAST_SURROGATE + 1:
            blocks[tuple(contains(ranges, start) for ranges in sets)].append((start, following - 1))
    return list(blocks.values())


def _sets(language: Any) -> Iterator[Ranges]:
    if language[0] == "set":
        yield language[1]
    elif language[0] in ("or", "and"):
        for member in language[1]:
            yield from _sets(member)
    else:
        for part in language[1:]:
            if isinstance(part, tuple):
                yield from _sets(part)


def _minimized(edges: _Automaton, accepting: set[int]) -> tuple[_Automaton, set[int]]:
    """Merge the states that accept the same texts (Moore's algorithm)."""
    groups = [int(state in accepting) for state in range(len(edges))]
    while True:
        numbers: dict[Any, int] = {}  # the first state's group has number 0
        refined = []
        for state, targets in enumerate(edges):
            check_time()
            ways: dict[int, list[tuple[int, int]]] = defaultdict(list)
            for target, ranges in targets.items():
                ways[groups[target]] += ranges
            signature = (groups[state], frozenset((group, merged(ranges)) for group, ranges in ways.items()))
            refined.append(numbers.setdefault(signature, len(numbers)))
        is_stable = len(numbers) == len(set(groups))
        groups = refined
        if is_stable:
            break
    result: _Automaton = [defaultdict(list) for _ in numbers]
    for group in range(len(numbers)):
        for target, ranges in edges[groups.index(group)].items():
            result[group][groups[target]] += ranges
    return result, {groups[state] for state in accepting}


# From an automaton to a pattern


def _eliminated(edges: _Automaton, accepting: set[int]) -> str:
    """Eliminate the states one after the other; return the pattern of the remaining way from first to last."""
    if not accepting:
        raise UnportablePattern("no text matches it")
    begin, end = -1, -2
    ways: dict[int, dict[int, str]] = {
        state: {target: _class_text(merged(ranges)) for target, ranges in targets.items()}
        for state, targets in enumerate(edges)
    }
    ways[begin] = {0: ""}
    for state in accepting:
        ways[state][end] = ""
    remaining = set(range(len(edges)))
    while remaining:
        check_time()
        state = min(remaining, key=lambda state: _weight(ways, state))
        remaining.remove(state)
        _eliminate(ways, state)
    if end not in ways[begin]:
        raise UnportablePattern("no text matches it")
    return f"^(?:{ways[begin][end]})$"


def _weight(ways: dict[int, dict[int, str]], state: int) -> int:
    """Return how much longer the ways become without the state."""
    outgoing = {target: text for target, text in ways[state].items() if target != state}
    incoming = [targets[state] for source, targets in ways.items() if source != state and state in targets]
    return (
        sum(map(len, incoming)) * (len(outgoing) - 1)
        + sum(map(len, outgoing.values())) * (len(incoming) - 1)
        + len(ways[state].get(state, "")) * (len(incoming) * len(outgoing) - 1)
    )


def _eliminate(ways: dict[int, dict[int, str]], state: int) -> None:
    targets = ways.pop(state)
    loop = targets.pop(state, None)
    middle = "" if loop is None else f"{_grouped(loop)}*"
    for others in ways.values():
        if (text := others.pop(state, None)) is None:
            continue
        for target, onward in targets.items():
            way = _joined(_joined(text, middle), onward)
            others[target] = way if target not in others else f"{others[target]}|{way}"
            if len(others[target]) > _MAX_CHARACTERS:
                raise UnportablePattern("its assertions are too complex")


def _joined(first: str, second: str) -> str:
    return "".join(f"(?:{text})" if "|" in text and not _is_one_unit(text) else text for text in (first, second))


def _grouped(text: str) -> str:
    return text if _is_one_unit(text) else f"(?:{text})"


def _is_one_unit(text: str) -> bool:
    return text.startswith("[") and text.index("]") == len(text) - 1


def _class_text(ranges: Ranges) -> str:
    """Write a set of characters as a class, the shorter of itself and its complement."""
    written, inverted = _members(ranges), _members(complement(ranges))
    return f"[^{inverted}]" if inverted and len(inverted) < len(written) else f"[{written}]"


def _members(ranges: Ranges) -> str:
    """Write ranges. Surrogates are in no text, and none may begin or end a range."""
    scalars = (
        (
            _LAST_SURROGATE + 1 if _FIRST_SURROGATE <= first <= _LAST_SURROGATE else first,
            _FIRST_SURROGATE - 1 if _FIRST_SURROGATE <= last <= _LAST_SURROGATE else last,
        )
        for first, last in ranges
    )
    return "".join(
        _code(first) + ("" if first == last else f"-{_code(last)}") for first, last in scalars if first <= last
    )


def _code(code: int) -> str:
    character = chr(code)
    return character if character.isascii() and character.isalnum() else f"\\u{{{code:X}}}"
