"""Finds the language of a pattern with assertions: the texts in which it is found."""

from collections.abc import Iterator
from typing import Final

from dragoman.output.grammar.character_ranges import (
    ALL_CHARACTERS,
    ASCII_LETTERS,
    NO_LETTERS,
    Ranges,
    complement,
    merged,
    ranges_of,
)
from dragoman.output.grammar.pattern_language import (
    ANYTHING,
    EMPTY_TEXT,
    NOTHING,
    Language,
    both,
    characters,
    either,
    has_empty_text,
    negation,
    repeated,
    then,
)
from dragoman.output.grammar.pattern_syntax import (
    Alternatives,
    Anchor,
    Boundary,
    Characters,
    LookAhead,
    Node,
    Repeat,
    Sequence,
    UnportablePattern,
)

_START, _LETTER, _OTHER, _DISPUTED = "start", "letter", "other", "disputed"
"""What is before a position: nothing, a letter in every dialect, a letter in none, or one that may be either."""

_LINE_END: Final[Ranges] = ((10, 10),)

_MAX_UNROLLED = 8
"""Limit of the repetitions of a part with assertions."""

_MAX_STEPS = 2_000
"""Limit of the parts that are read for one pattern, since those after an assertion are read once for each case."""


def language_of(pattern: Node, *, wide: bool) -> Language:
    """Return the language of the texts in which the pattern is found.

    `wide` has the meaning of `portable_pattern`. Raises UnportablePattern if the pattern is too complex.
    """
    return _Reader(pattern).found(pattern, wide)


class _Reader:
    """Reads one pattern from its end to its beginning: a part's language includes what comes after it."""

    def __init__(self, pattern: Node) -> None:
        self._steps = 0
        self._contexts: dict[str, Ranges] = {_OTHER: ALL_CHARACTERS}
        if any(isinstance(node, Boundary) for node in _nodes(pattern)):
            disputed = complement((*NO_LETTERS, *ASCII_LETTERS))
            self._contexts = {_LETTER: ASCII_LETTERS, _OTHER: NO_LETTERS, _DISPUTED: disputed}

    def found(self, pattern: Node, wide: bool) -> Language:
        at_start = self._match((pattern,), ANYTHING, _START, wide)
        if not _looks_left(pattern):
            return then(ANYTHING, at_start)
        later = (
            then(ANYTHING, characters(last), self._match((pattern,), ANYTHING, before, wide))
            for before, last in self._contexts.items()
        )
        return either(at_start, *later)

    def _match(self, parts: tuple[Node, ...], rest: Language, before: str, wide: bool) -> Language:
        """Return the language of the parts and then `rest`, at a position with `before` before it."""
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise UnportablePattern("its assertions are too complex")
        if not parts:
            return rest
        first, others = parts[0], parts[1:]
        match first:
            case Sequence(parts=inner):
                return self._match((*inner, *others), rest, before, wide)
            case Anchor() | Boundary() | LookAhead():
                return both(self._match(others, rest, before, wide), self._assertion(first, before, wide))
            case Alternatives(parts=inner) if _asserts(first):
                return either(*(self._match((part, *others), rest, before, wide) for part in inner))
            case Repeat(part=part, minimum=minimum, maximum=maximum) if _asserts(first):
                if maximum is None or maximum > _MAX_UNROLLED:
                    raise UnportablePattern("it repeats an assertion too often")
                counts = range(minimum, maximum + 1)
                return either(*(self._match((part,) * count + others, rest, before, wide) for count in counts))
        return self._then(self._plain(first, wide), others, rest, before, wide)

    def _then(self, first: Language, others: tuple[Node, ...], rest: Language, before: str, wide: bool) -> Language:
        """Return the language of `first`, then the parts, then `rest`."""
        if not any(map(_looks_left, others)):
            return then(first, self._match(others, rest, before, wide))
        unchanged = self._match(others, rest, before, wide) if has_empty_text(first) else NOTHING
        return either(
            unchanged,
            *(
                then(both(first, then(ANYTHING, characters(last))), self._match(others, rest, after, wide))
                for after, last in self._contexts.items()
            ),
        )

    def _plain(self, node: Node, wide: bool) -> Language:
        """Return the language of a part without assertions."""
        match node:
            case Characters(items=items, negated=negated):
                return characters(ranges_of(items, negated, wide))
            case Alternatives(parts=parts):
                return either(*(self._plain(part, wide) for part in parts))
            case Sequence(parts=parts):
                return then(*(self._plain(part, wide) for part in parts))
            case Repeat(part=part, minimum=minimum, maximum=maximum):
                return repeated(self._plain(part, wide), minimum, maximum)
        raise AssertionError(node)

    def _assertion(self, node: Node, before: str, wide: bool) -> Language:
        """Return the language of what may come after an assertion."""
        match node:
            case Anchor("^"):
                return ANYTHING if before == _START else NOTHING
            case Anchor():
                return either(EMPTY_TEXT, characters(_LINE_END)) if wide else EMPTY_TEXT
            case LookAhead(part=part, negated=False):
                return self._match((part,), ANYTHING, before, wide)
            case LookAhead(part=part):
                return negation(self._match((part,), ANYTHING, before, not wide))
            case Boundary(negated=negated):
                return self._after_boundary(before, negated, wide)
        raise AssertionError(node)

    def _after_boundary(self, before: str, negated: bool, wide: bool) -> Language:
        if before == _DISPUTED:
            return ANYTHING if wide else NOTHING
        is_letter_next = (before == _LETTER) is negated
        disputed = self._contexts[_DISPUTED] if wide else ()
        following = merged([*self._contexts[_LETTER if is_letter_next else _OTHER], *disputed])
        begins = then(characters(following), ANYTHING)
        # For ECMA-262, \B matches in the empty text; for Python up to 3.13 it does not.
        is_disputed = negated and before == _START and not wide
        return begins if is_letter_next or is_disputed else either(EMPTY_TEXT, begins)


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    match node:
        case Sequence(parts=parts) | Alternatives(parts=parts):
            for part in parts:
                yield from _nodes(part)
        case Repeat(part=part) | LookAhead(part=part):
            yield from _nodes(part)


def _asserts(node: Node) -> bool:
    return any(isinstance(part, Anchor | Boundary | LookAhead) for part in _nodes(node))


def _looks_left(node: Node) -> bool:
    """Whether the node depends on what is before it."""
    return any(isinstance(part, Boundary) or part == Anchor("^") for part in _nodes(node))
