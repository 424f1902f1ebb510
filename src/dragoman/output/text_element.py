"""Reads answers whose text is an element or a message of its own, as calls are."""

import functools
import re
from typing import Literal

import msgspec

from dragoman.output.parts import ContentText, OutputParser, OutputPart
from dragoman.output.scanning import WHITESPACE, ExpectedMarkup, atoms_of_words, overlap


class TextElement(msgspec.Struct, frozen=True, kw_only=True):
    """The texts around the text of an answer.

    opening TEXT closing CALLS, or opening TEXT end, or CALLS

    With `prompt_end`: opening TEXT CALLS, or opening TEXT, or CALLS without `prompt_end` at their beginning.
    """

    opening: str
    """White space at its end is no part of the text, however much of it there is."""
    closing: str = ""
    """What stands between the text and calls. Empty: no calls follow a text."""
    end: str = ""
    """What stands after the text if no call follows. Empty: nothing."""
    before_calls: bool = False
    """Whether the element is there before calls too, then empty."""
    special_tokens: tuple[str, ...] = ()
    """Parts of these texts, and of the reasoning's opening, that are special tokens."""
    function: str = ""
    """The function whose call the opening is. If a request has a function of this name, there is no element."""
    opened_by_prompt: bool = False
    """Whether the prompt ends within the element."""
    prompt_end: str = ""
    """What the prompt ends with, and all calls but an answer's first begin with. Then the opening stands exactly so."""


class TextElementParser:
    """Implements parts.OutputParser: drops the texts around the text, and passes the rest to another parser."""

    def __init__(
        self, element: TextElement, answer_parser: OutputParser | None = None, text_parser: OutputParser | None = None
    ) -> None:
        """Pass what is in no element to `answer_parser`; None: it is content.

        `text_parser` is for the text, if the element has a `prompt_end`.
        """
        is_exact = bool(element.prompt_end)
        self._opening = _expected_opening(element.opening, is_exact=is_exact)
        self._exact_opening = element.opening if is_exact else ""
        self._text_parser = text_parser
        self._function = f'"{element.function}"' if element.function else None
        self._at_space = not (element.opened_by_prompt or is_exact) and element.opening.endswith(tuple(WHITESPACE))
        """Whether white space comes next that is no part of the text."""
        self._marks = tuple(filter(None, (element.closing, element.end)))
        longest_first = sorted(self._marks, key=len, reverse=True)
        self._mark = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._answer_parser = answer_parser
        self._state: Literal["beginning", "text", "rest"] = "text" if element.opened_by_prompt else "beginning"
        self._buffer = ""

    def feed(self, text: str) -> list[OutputPart]:
        self._buffer += text
        parts: list[OutputPart] = []
        while self._state != "rest":
            if not (self._parse_beginning() if self._state == "beginning" else self._parse_text(parts)):
                return parts
        rest, self._buffer = self._buffer, ""
        return parts + self._pass(rest)

    def finish(self) -> list[OutputPart]:
        rest, self._buffer = self._buffer, ""
        if self._state == "text":
            # The answer ends within what would have followed the text.
            is_mark = any(rest.startswith(mark) for mark in self._marks)
            return [] if is_mark or not rest or self._at_space else [ContentText(rest)]
        if self._state == "beginning" and self._function is not None and self._function in rest:
            return []  # The answer ends within the opening, which another parser would take for a call.
        if self._state == "beginning" and self._answer_parser is None and self._exact_opening.startswith(rest):
            return []  # The same, where nothing else is expected.
        parts = self._pass(rest)
        return parts if self._answer_parser is None else parts + self._answer_parser.finish()

    @property
    def in_content(self) -> bool:
        return self._state == "text" or self._answer_parser is None or self._answer_parser.in_content

    @property
    def in_reasoning(self) -> bool:
        return False

    @property
    def held_characters(self) -> int:
        return len(self._buffer) + (0 if self._answer_parser is None else self._answer_parser.held_characters)

    def _parse_beginning(self) -> bool:
        """Look for the opening. True if there is more to parse."""
        if (opening := self._opening.match(self._buffer)) is not None:
            self._state, self._buffer = "text", self._buffer[opening.end() :]
            if self._exact_opening:
                self._state, self._answer_parser = "rest", self._text_parser
        elif self._opening.matches_prefix(self._buffer):
            return False
        else:
            self._state = "rest"
        return True

    def _parse_text(self, parts: list[OutputPart]) -> bool:
        """Parse text up to a mark. True if there is more to parse."""
        if self._at_space:
            self._buffer = self._buffer.lstrip(WHITESPACE)
            self._at_space = not self._buffer
        found = None if self._mark is None else self._mark.search(self._buffer)
        if found is None:
            end = len(self._buffer) - max((overlap(self._buffer, mark) for mark in self._marks), default=0)
        else:
            end = found.start()
        if end:
            parts.append(ContentText(self._buffer[:end]))
        rest = self._buffer[end:]
        if found is None or any(mark != rest and mark.startswith(rest) for mark in self._marks):
            self._buffer = rest
            return False
        self._state, self._buffer = "beginning", self._buffer[found.end() :]
        return True

    def _pass(self, text: str) -> list[OutputPart]:
        if not text:
            return []
        return [ContentText(text)] if self._answer_parser is None else self._answer_parser.feed(text)


@functools.cache
def _expected_opening(opening: str, *, is_exact: bool) -> ExpectedMarkup:
    """Return the markup of an opening, in which white space may differ unless it `is_exact`."""
    return ExpectedMarkup([*map(re.escape, opening)] if is_exact else atoms_of_words(opening))
