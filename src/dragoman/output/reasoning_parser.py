"""Separates a model's reasoning from its answer."""

from typing import Literal

import msgspec

from dragoman.output.parts import ContentText, OutputParser, OutputPart, ReasoningText
from dragoman.output.scanning import MAX_HELD_WHITESPACE, WHITESPACE, end_of_text, overlap


class ReasoningSpec(msgspec.Struct, frozen=True):
    """The reasoning that an answer may begin with."""

    opening: str
    closing: str
    opened_by_prompt: bool
    """Whether the prompt ends inside the reasoning, so that the model does not write `opening`."""
    budget_tokens: int | None
    """Tokens the reasoning may have; None: no limit."""
    special_tokens: tuple[str, ...] = ()
    """Parts of the markers that are special tokens, where the whole markers are none."""
    after_closing: str = "\n\n"
    """Text that a model whose budget is spent must go on with after the closing marker."""
    closes_alone: bool = False
    """Whether an answer without reasoning may begin with the closing marker."""


class ReasoningParser:
    """Implements parts.OutputParser: parses reasoning at the beginning and passes the rest to another parser.

    Whitespace before the opening marker, directly inside both markers and after the closing one belongs to them.
    """

    def __init__(self, spec: ReasoningSpec, answer_parser: OutputParser | None = None) -> None:
        """Pass the text after the reasoning to `answer_parser`; None: it is content."""
        self._spec = spec
        self._answer_parser = answer_parser
        self._state: Literal["beginning", "reasoning", "answer"] = "reasoning" if spec.opened_by_prompt else "beginning"
        self._buffer = ""
        self._after_marker = spec.opened_by_prompt
        """Whether there was only whitespace since a marker."""

    def feed(self, text: str) -> list[OutputPart]:
        self._buffer += text
        parts: list[OutputPart] = []
        if self._state == "beginning":
            self._parse_beginning()
        if self._state == "reasoning":
            parts += self._parse_reasoning()
        if self._state == "answer":
            parts += self._parse_answer()
        return parts

    def finish(self) -> list[OutputPart]:
        rest, self._buffer = self._buffer, ""
        if self._state == "reasoning":
            return [ReasoningText(rest)] if rest else []
        if self._answer_parser is not None:
            return self._answer_parser.feed(rest) + self._answer_parser.finish()
        return [ContentText(rest)] if rest else []

    @property
    def in_content(self) -> bool:
        return self._state != "reasoning" and (self._answer_parser is None or self._answer_parser.in_content)

    @property
    def in_reasoning(self) -> bool:
        return self._state == "reasoning"

    @property
    def held_characters(self) -> int:
        here = len(self._buffer) if self._state == "beginning" else 0
        return here + (self._answer_parser.held_characters if self._answer_parser is not None else 0)

    def _parse_beginning(self) -> None:
        start = self._buffer.lstrip(WHITESPACE)
        opening, closing = self._spec.opening.strip(WHITESPACE), self._spec.closing
        if len(self._buffer) - len(start) > MAX_HELD_WHITESPACE:
            self._state = "answer"
        elif start.startswith(opening):
            self._consume_marker("reasoning", start.removeprefix(opening))
        elif self._spec.closes_alone and start.startswith(closing):
            self._consume_marker("answer", start.removeprefix(closing))
        elif not opening.startswith(start) and not (self._spec.closes_alone and closing.startswith(start)):
            self._state = "answer"

    def _parse_reasoning(self) -> list[OutputPart]:
        self._skip_whitespace()
        found = self._buffer.find(self._spec.closing)
        end = found if found >= 0 else len(self._buffer) - overlap(self._buffer, self._spec.closing)
        text = self._buffer[: end_of_text(self._buffer, end)]
        if found >= 0:
            self._consume_marker("answer", self._buffer[found + len(self._spec.closing) :])
        else:
            self._buffer = self._buffer[len(text) :]
        return [ReasoningText(text)] if text else []

    def _parse_answer(self) -> list[OutputPart]:
        self._skip_whitespace()
        text, self._buffer = self._buffer, ""
        if self._answer_parser is not None:
            return self._answer_parser.feed(text)
        return [ContentText(text)] if text else []

    def _consume_marker(self, state: Literal["reasoning", "answer"], rest: str) -> None:
        self._state, self._buffer, self._after_marker = state, rest, True

    def _skip_whitespace(self) -> None:
        if self._after_marker:
            self._buffer = self._buffer.lstrip(WHITESPACE)
            self._after_marker = not self._buffer
