"""Takes an answer apart into text and calls, as the markup of a family of templates writes them.

Calls are read as soon as they are certain:

- CallBegins when the first character of the arguments is there; before it, what does not go on as a call is Content.
- CallArguments exactly as written. CallEnds when the JSON value is complete, whatever follows it.
- Behind the arguments, the rest of the markup is dropped, also when the answer ends in the middle of it. What stands
  there instead is Content.

Whitespace around and inside the markup may differ. Whitespace directly before a call and after the last one is markup,
too; all other whitespace is Content. The text of an answer without calls comes out as it went in.
"""

from typing import Literal

from dragoman.prompt.markup import CallMarkup
from dragoman.prompt.pieces import CallArguments, CallBegins, CallEnds, Content, Piece
from dragoman.prompt.scanning import WHITESPACE, Expected, JsonValue, atoms_of_head, atoms_of_words, overlap


class CallSyntax:
    """A markup, made ready for reading."""

    def __init__(self, markup: CallMarkup, may_precede: str = "") -> None:
        """`may_precede`: text that a model may write before the first call, if an answer is either calls or text."""
        section, call = atoms_of_words(markup.section_open), atoms_of_words(markup.call_open)
        head = atoms_of_head(markup.head_before_name, markup.head_after_name)
        separator, close = atoms_of_words(markup.separator), atoms_of_words(markup.section_close)
        openings = [[*section, *call, *head]]
        if may_precede:
            openings.append([*atoms_of_words(may_precede), *section, *call, *head])
        following = ([[*separator, *call, *head]] if separator else []) + ([close] if close else [])
        self.trigger = markup.trigger
        self.only_first = markup.only_first
        self.separators = WHITESPACE + markup.separator
        self.opening = Expected(*openings)
        behind = [[shape] for shape in (atoms_of_words(markup.tail), atoms_of_words(markup.call_close)) if shape]
        self.behind_arguments = [Expected(*shapes) for shapes in (*behind, following) if shapes]
        """What comes after a call's arguments, one after another."""


Certainty = Literal["none", "from trigger", "whole answer"]
"""Where a grammar holds the answer to the markup, so that what looks like the beginning of a call is one."""


class CallReader:
    """Implements pieces.AnswerReader."""

    def __init__(self, syntax: CallSyntax, certainty: Certainty = "none") -> None:
        self._syntax = syntax
        self._certainty = certainty
        self._expected = [syntax.opening] if syntax.only_first else []
        """What must come next, unless it is arguments or text."""
        self._arguments: JsonValue | None = None
        """The value that is being read."""
        self._unread = ""
        self._space = ""
        """Whitespace directly before an opening that is being read."""
        self._calls = 0
        self._after_call = False
        """Whether nothing but whitespace came since a call."""

    def feed(self, text: str) -> list[Piece]:
        self._unread += text
        pieces: list[Piece] = []
        reading = True
        while reading:
            if self._arguments is not None:
                reading = self._read_arguments(self._arguments, pieces)
            elif self._expected:
                reading = self._read_markup(self._expected[0], pieces)
            else:
                reading = self._read_text(pieces)
        return pieces

    def finish(self) -> list[Piece]:
        pieces: list[Piece] = []
        space, self._space = self._space, ""
        rest, self._unread = self._unread, ""
        in_opening = bool(self._expected) and self._expected[0].may_open_a_call
        if self._certainty == "whole answer" or (self._certainty == "from trigger" and in_opening):
            return []  # What is held is a call that was cut before its arguments.
        if not self._expected:
            if not self._after_call or rest.strip(WHITESPACE):
                self._say(rest, pieces)
        elif self._expected[0] is self._syntax.opening:
            self._say(space + rest, pieces)
        elif self._expected[0].may_open_a_call and rest.strip(self._syntax.separators):
            self._say(rest, pieces)
        return pieces

    @property
    def in_content(self) -> bool:
        return self._arguments is None

    @property
    def in_thought(self) -> bool:
        return False

    @property
    def held(self) -> int:
        return len(self._space) + len(self._unread)

    def _read_text(self, pieces: list[Piece]) -> bool:
        """Text up to a trigger; whether there is more to read."""
        if self._syntax.only_first:
            return self._say_all(pieces)
        found = self._unread.find(self._syntax.trigger)
        end = found if found >= 0 else len(self._unread) - overlap(self._unread, self._syntax.trigger)
        text = self._unread[:end].rstrip(WHITESPACE)
        self._say(text, pieces)
        if found < 0:
            self._unread = self._unread[len(text) :]
            return False
        self._space, self._unread = self._unread[len(text) : found], self._unread[found:]
        self._expected = [self._syntax.opening]
        return True

    def _read_markup(self, expected: Expected, pieces: list[Piece]) -> bool:
        """What is expected, or the end of all expectations; whether there is more to read."""
        match = expected.match(self._unread)
        if match is None:
            if expected.may_come(self._unread):
                return False
            self._give_up(expected, pieces)
            return True
        self._unread = self._unread[match.end() :]
        self._expected = self._expected[1:]
        if match.lastindex is not None:
            pieces.append(CallBegins(self._calls, match[match.lastindex]))
            self._arguments, self._space = JsonValue(), ""
        return True

    def _give_up(self, expected: Expected, pieces: list[Piece]) -> None:
        """What was expected did not come: it is text, in which another call may begin."""
        self._expected = []
        if expected is self._syntax.opening and not self._syntax.only_first:
            self._say(self._space + self._syntax.trigger, pieces)
            self._space, self._unread = "", self._unread[len(self._syntax.trigger) :]

    def _read_arguments(self, arguments: JsonValue, pieces: list[Piece]) -> bool:
        end = arguments.end(self._unread)
        text = self._unread[:end]
        if text:
            pieces.append(CallArguments(self._calls, text))
        self._unread = self._unread[len(text) :]
        if end is None:
            return False
        pieces.append(CallEnds(self._calls))
        self._calls += 1
        self._arguments, self._expected, self._after_call = None, self._syntax.behind_arguments, True
        return True

    def _say_all(self, pieces: list[Piece]) -> bool:
        self._say(self._unread, pieces)
        self._unread = ""
        return False

    def _say(self, text: str, pieces: list[Piece]) -> None:
        if text:
            pieces.append(Content(text))
            self._after_call = False
