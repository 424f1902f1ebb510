"""Languages of texts as expressions with intersection and complement, and their derivatives.

A derivative is the language of what may follow a character (Brzozowski, "Derivatives of Regular Expressions", 1964).
Languages are tuples, so that they can be compared: ("set", ranges), ("then", first, rest), ("or", members),
("and", members), ("not", other), ("repeat", part, minimum, maximum) and ("empty",), the empty text.
"""

from typing import Any, Final

from dragoman.output.grammar.character_ranges import ALL_CHARACTERS, Ranges, contains
from dragoman.output.grammar.pattern_syntax import UnportablePattern
from dragoman.output.grammar.time_limit import check_time

_MAX_TERMS = 20_000
"""Limit of the derivatives that are computed for one pattern."""

Language = tuple[Any, ...]
EMPTY_TEXT: Final[Language] = ("empty",)
NOTHING: Final[Language] = ("or", frozenset())


def characters(ranges: Ranges) -> Language:
    """Return the language of single characters of a set."""
    return ("set", ranges) if ranges else NOTHING


ANYTHING: Final[Language] = ("repeat", characters(ALL_CHARACTERS), 0, None)


def then(*languages: Language) -> Language:
    """Return the concatenation."""
    result = EMPTY_TEXT
    for language in reversed(languages):
        if NOTHING in (language, result):
            return NOTHING
        if language[0] == "then":
            result = ("then", language[1], then(language[2], result))
        elif result == EMPTY_TEXT:
            result = language
        elif language != EMPTY_TEXT and not (language == result == ANYTHING):
            result = ("then", language, result)
    return result


def either(*languages: Language) -> Language:
    """Return the union."""
    members = {part for language in languages for part in (language[1] if language[0] == "or" else (language,))}
    if ANYTHING in members:
        return ANYTHING
    return members.pop() if len(members) == 1 else ("or", frozenset(members))


def both(*languages: Language) -> Language:
    """Return the intersection."""
    members = {part for language in languages for part in (language[1] if language[0] == "and" else (language,))}
    members.discard(ANYTHING)
    if NOTHING in members:
        return NOTHING
    if EMPTY_TEXT in members:
        return EMPTY_TEXT if all(map(has_empty_text, members)) else NOTHING
    if not members:
        return ANYTHING
    return members.pop() if len(members) == 1 else ("and", frozenset(members))


def negation(language: Language) -> Language:
    """Return the complement."""
    if language[0] == "not":
        return language[1]  # type: ignore[no-any-return]
    if language == NOTHING:
        return ANYTHING
    return NOTHING if language == ANYTHING else ("not", language)


def repeated(language: Language, minimum: int, maximum: int | None) -> Language:
    """Return the language repeated `minimum` to `maximum` times (None: any number)."""
    if maximum == 0 or language == EMPTY_TEXT or (language == NOTHING and not minimum):
        return EMPTY_TEXT
    if language == NOTHING or (minimum, maximum) == (1, 1):
        return language
    return ("repeat", language, 0 if has_empty_text(language) else minimum, maximum)


def has_empty_text(language: Language) -> bool:
    """Whether the empty text is in the language."""
    match language:
        case ("empty",):
            return True
        case ("then", first, rest):
            return has_empty_text(first) and has_empty_text(rest)
        case ("or", members):
            return any(map(has_empty_text, members))
        case ("and", members):
            return all(map(has_empty_text, members))
        case ("not", other):
            return not has_empty_text(other)
        case ("repeat", _, minimum, _):
            return bool(minimum == 0)
    return False


class Derivatives:
    """Derivatives of languages, each computed once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Language, int], Language] = {}

    def derive(self, language: Language, character: int) -> Language:
        """Return the language of what may follow the character in a text of `language`."""
        check_time()
        key = (language, character)
        if key not in self._known:
            if len(self._known) >= _MAX_TERMS:
                raise UnportablePattern("its assertions are too complex")
            self._known[key] = self._derive(language, character)
        return self._known[key]

    def _derive(self, language: Language, character: int) -> Language:
        match language:
            case ("set", ranges):
                return EMPTY_TEXT if contains(ranges, character) else NOTHING
            case ("then", first, rest):
                following = then(self.derive(first, character), rest)
                return either(following, self.derive(rest, character)) if has_empty_text(first) else following
            case ("or", members):
                return either(*(self.derive(member, character) for member in members))
            case ("and", members):
                return both(*(self.derive(member, character) for member in members))
            case ("not", other):
                return negation(self.derive(other, character))
            case ("repeat", part, minimum, maximum):
                remaining = repeated(part, max(0, minimum - 1), None if maximum is None else maximum - 1)
                return then(self.derive(part, character), remaining)
        return NOTHING
