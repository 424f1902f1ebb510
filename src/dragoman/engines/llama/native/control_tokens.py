"""Splits rendered text at control tokens as llama.cpp does, except where people wrote them (prompt.control_tokens).

llama.cpp first splits a text at control tokens and tokenizes every fragment between them on its own. So the tokens are
the same if the text is split here and each fragment is tokenized without control tokens, as long as no control token
begins within another one (`llama_vocab::impl::tokenizer_st_partition` in its src/llama-vocab.cpp).
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from dragoman.prompt.control_tokens import SpecialTokenTexts, match_longest

_UNKNOWN, _CONTROL, _USER_DEFINED, _STRIPS_LEFT, _STRIPS_RIGHT = 1 << 0, 1 << 3, 1 << 4, 1 << 7, 1 << 8
"""`enum llama_token_attr` of llama.h."""

SPECIAL_ATTRIBUTES = _UNKNOWN | _CONTROL | _USER_DEFINED
"""A token with one of these is found in a text before the rest of the text is tokenized."""

_MARKUP = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
"""What control tokens look like. Many files call some of them user-defined, which llama.cpp finds in any text."""

_TURN_MARKUP = re.compile(r"<\|.+\|>|<｜.+｜>")
"""What has no other use. Converters of today write such tokens as control tokens."""

_SURROGATE = re.compile("[\ud800-\udfff]")
"""Stands for a byte that is not UTF-8, which is in no text."""

_WHITE_SPACE = " \t\n\v\f\r"
"""Of C's `isspace`."""


class VocabularyEntry(NamedTuple):
    """A token as the model file describes it."""

    token: int
    text: str
    attributes: int
    """Bits of `enum llama_token_attr`."""


class ControlTokenSplitter:
    """Knows the control tokens of one vocabulary."""

    def __init__(self, entries: Iterable[VocabularyEntry]) -> None:
        entries = [entry for entry in entries if entry.text and not _SURROGATE.search(entry.text)]
        control = [entry for entry in entries if entry.attributes & (_CONTROL | _UNKNOWN)]
        self._control = {entry.text: entry for entry in reversed(control)}
        user_defined = [
            entry.text
            for entry in entries
            if entry.attributes & _USER_DEFINED and entry.text not in self._control and _MARKUP.fullmatch(entry.text)
        ]
        self.texts = SpecialTokenTexts(
            (*self._control, *filter(_TURN_MARKUP.fullmatch, user_defined)),
            tuple(text for text in user_defined if not _TURN_MARKUP.fullmatch(text)),
        )
        self._pattern = _longest_of(self._control)
        self._user_defined = _longest_of(user_defined)

    def split(self, text: str, literal_offsets: Sequence[int]) -> Iterator[int | list[str]]:
        """Yield control tokens and the fragments between them.

        The characters at `literal_offsets`, in ascending order, are no part of a control token. A fragment consists of
        pieces, which have to be tokenized one by one: otherwise llama.cpp would find a user-defined token.
        """
        position = begin = 0
        while (match := self._pattern.search(text, position)) is not None:
            entry = self._control_token(text, match, literal_offsets)
            if entry is None:
                position = match.start() + 1
                continue
            end = match.start()
            while entry.attributes & _STRIPS_LEFT and end > begin and text[end - 1] in _WHITE_SPACE:
                end -= 1
            yield from self._fragment(text, begin, end, literal_offsets)
            yield entry.token
            begin = match.start() + len(entry.text)
            while entry.attributes & _STRIPS_RIGHT and begin < len(text) and text[begin] in _WHITE_SPACE:
                begin += 1
            position = begin
        yield from self._fragment(text, begin, len(text), literal_offsets)

    def _control_token(self, text: str, match: re.Match[str], literal_offsets: Sequence[int]) -> VocabularyEntry | None:
        """Return the longest control token that begins here and consists of the template's own characters."""
        start = match.start()
        end = _first_within(literal_offsets, start, match.end())
        if end is None:
            return self._control[match[0]]
        return next(
            (
                entry
                for length in range(end - start, 0, -1)
                if (entry := self._control.get(text[start : start + length]))
            ),
            None,
        )

    def _fragment(self, text: str, begin: int, end: int, literal_offsets: Sequence[int]) -> Iterator[list[str]]:
        if begin == end:
            return
        pieces = []
        position = begin
        while (match := self._user_defined.search(text, position, end)) is not None:
            position = match.start() + 1
            literal = _first_within(literal_offsets, *match.span())
            if literal is not None:
                cut = max(literal, position)
                pieces.append(text[begin:cut])
                begin = position = cut
        yield [*pieces, text[begin:end]]


def _longest_of(texts: Sequence[str] | dict[str, VocabularyEntry]) -> re.Pattern[str]:
    return re.compile(match_longest(texts) or "(?!)")


def _first_within(offsets: Sequence[int], begin: int, end: int) -> int | None:
    """Return the first of the offsets from `begin` on and before `end`."""
    index = bisect_left(offsets, begin)
    return offsets[index] if index < len(offsets) and offsets[index] < end else None
