"""Tells what a model thinks from what it answers."""

from typing import Literal

from dragoman.prompt.pieces import AnswerReader, Content, Piece, Thought
from dragoman.prompt.scanning import WHITESPACE, overlap
from dragoman.prompt.thinking import Thinking


class ReasoningReader:
    """Implements pieces.AnswerReader: reads a thought at the beginning of an answer, and leaves the rest to another.

    Whitespace before the opening marker, directly inside the two and after the closing one belongs to them.
    """

    def __init__(self, thinking: Thinking, answer: AnswerReader | None = None) -> None:
        """`answer` reads what is no thought; None: it is Content."""
        self._thinking = thinking
        self._answer = answer
        self._place: Literal["beginning", "thought", "answer"] = "thought" if thinking.begun else "beginning"
        self._unread = ""
        self._behind_marker = thinking.begun
        """Whether nothing but whitespace came since a marker."""

    def feed(self, text: str) -> list[Piece]:
        self._unread += text
        pieces: list[Piece] = []
        if self._place == "beginning":
            self._read_beginning()
        if self._place == "thought":
            pieces += self._read_thought()
        if self._place == "answer":
            pieces += self._read_answer()
        return pieces

    def finish(self) -> list[Piece]:
        rest, self._unread = self._unread, ""
        if self._place == "thought":
            return [Thought(rest)] if rest else []
        if self._answer is not None:
            return self._answer.feed(rest) + self._answer.finish()
        return [Content(rest)] if rest else []

    @property
    def in_content(self) -> bool:
        return self._place != "thought" and (self._answer is None or self._answer.in_content)

    @property
    def in_thought(self) -> bool:
        return self._place == "thought"

    @property
    def held(self) -> int:
        here = len(self._unread) if self._place == "beginning" else 0
        return here + (self._answer.held if self._answer is not None else 0)

    def _read_beginning(self) -> None:
        start = self._unread.lstrip(WHITESPACE)
        if start.startswith(self._thinking.opening):
            self._pass_marker("thought", start.removeprefix(self._thinking.opening))
        elif not self._thinking.opening.startswith(start):
            self._place = "answer"

    def _read_thought(self) -> list[Piece]:
        self._skip_whitespace()
        found = self._unread.find(self._thinking.closing)
        end = found if found >= 0 else len(self._unread) - overlap(self._unread, self._thinking.closing)
        text = self._unread[:end].rstrip(WHITESPACE)
        if found >= 0:
            self._pass_marker("answer", self._unread[found + len(self._thinking.closing) :])
        else:
            self._unread = self._unread[len(text) :]
        return [Thought(text)] if text else []

    def _read_answer(self) -> list[Piece]:
        self._skip_whitespace()
        text, self._unread = self._unread, ""
        if self._answer is not None:
            return self._answer.feed(text)
        return [Content(text)] if text else []

    def _pass_marker(self, place: Literal["thought", "answer"], rest: str) -> None:
        self._place, self._unread, self._behind_marker = place, rest, True

    def _skip_whitespace(self) -> None:
        if self._behind_marker:
            self._unread = self._unread.lstrip(WHITESPACE)
            self._behind_marker = not self._unread
