"""Drops the markers that some models write around the text of an answer, as Command R7B does."""

import msgspec

from dragoman.output.parts import ContentText, OutputParser, OutputPart
from dragoman.output.scanning import MAX_HELD_WHITESPACE, WHITESPACE, overlap


class TextMarkers(msgspec.Struct, frozen=True):
    """The texts around the text of an answer."""

    opening: str
    closing: str


class MarkedTextParser:
    """Implements parts.OutputParser: drops the markers and passes the rest to another parser.

    The opening marker is dropped at the beginning, with white space before it, and the closing one everywhere.
    """

    def __init__(self, markers: TextMarkers, answer_parser: OutputParser | None = None) -> None:
        """Pass the text to `answer_parser`; None: it is content."""
        self._markers = markers
        self._answer_parser = answer_parser
        self._buffer = ""
        self._at_beginning = True

    def feed(self, text: str) -> list[OutputPart]:
        self._buffer += text
        if self._at_beginning:
            start = self._buffer.lstrip(WHITESPACE)
            is_text = len(self._buffer) - len(start) > MAX_HELD_WHITESPACE
            if not is_text and self._markers.opening.startswith(start) and start != self._markers.opening:
                return []
            self._at_beginning = False
            if not is_text and start.startswith(self._markers.opening):
                self._buffer = start.removeprefix(self._markers.opening)
        *complete, last = self._buffer.split(self._markers.closing)
        end = len(last) - overlap(last, self._markers.closing)
        self._buffer = last[end:]
        return self._pass("".join([*complete, last[:end]]))

    def finish(self) -> list[OutputPart]:
        rest, self._buffer = self._buffer, ""
        parts = self._pass(rest)
        return parts if self._answer_parser is None else parts + self._answer_parser.finish()

    @property
    def in_content(self) -> bool:
        return self._answer_parser is None or self._answer_parser.in_content

    @property
    def in_reasoning(self) -> bool:
        return False

    @property
    def held_characters(self) -> int:
        return len(self._buffer) + (0 if self._answer_parser is None else self._answer_parser.held_characters)

    def _pass(self, text: str) -> list[OutputPart]:
        if not text:
            return []
        return [ContentText(text)] if self._answer_parser is None else self._answer_parser.feed(text)
