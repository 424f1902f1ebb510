"""Separates an answer into text and tool calls, according to the markup of a family of templates.

Calls are reported as soon as they are certain:

- ToolCallStart at the first character of the arguments. Before it, text that stops matching a call is content.
- ToolCallArguments exactly as written. ToolCallEnd when the JSON value is complete, whatever follows it. Arguments
  that are no JSON are reported as the JSON object that they stand for.
- The markup after the arguments is dropped, even if the answer ends within it. Any other text there is content.

Whitespace around and inside the markup may differ. Whitespace directly before a call and after the last one is markup
too; all other whitespace is content. The text of an answer without calls is unchanged.
"""

import re
from collections.abc import Container, Mapping
from typing import Literal

from dragoman.output.element_reader import ElementArguments, ElementReader
from dragoman.output.element_syntax import ValueTypes
from dragoman.output.markup import ID, NAME, PLACEHOLDERS, ToolCallMarkup
from dragoman.output.parts import ContentText, OutputPart, ToolCallArguments, ToolCallEnd, ToolCallStart
from dragoman.output.scanning import (
    WHITESPACE,
    ExpectedMarkup,
    JsonValueScanner,
    atoms_of_call,
    atoms_of_head,
    atoms_of_words,
    end_of_text,
    overlap,
)
from dragoman.output.tagged_arguments import ParameterSyntax, TaggedArguments
from dragoman.output.value_reader import ArgumentSyntax, ValueReader

ArgumentsReader = JsonValueScanner | TaggedArguments | ValueReader | ElementReader

ArgumentTypes = Mapping[str, Mapping[str, bool] | ValueTypes]
"""For each tool, what the text of its arguments does not show: an item of StringParameters, or the types of values."""


class ToolCallSyntax:
    """A markup, prepared for parsing."""

    def __init__(self, markup: ToolCallMarkup) -> None:
        is_json = markup.parameters is None and markup.elements is None
        section, call = atoms_of_words(markup.section_open), atoms_of_words(markup.call_open)
        head = (
            atoms_of_head(markup.head_before_name, markup.head_after_name, before_json=is_json)
            if markup.values is None
            else atoms_of_call(markup.head_before_name, markup.head_after_name)
        )
        separator, close = atoms_of_words(markup.separator), atoms_of_words(markup.section_close)
        self._parameters: ParameterSyntax | ArgumentSyntax | ElementArguments | None = None
        if markup.parameters is not None:
            self._parameters = ParameterSyntax(markup.parameters, markup.tail)
        elif markup.values is not None:
            self._parameters = ArgumentSyntax(markup.values, markup.tail)
        elif markup.elements is not None:
            self._parameters = ElementArguments(markup.elements, markup.tail)
        after_head = [[]] if self._parameters is None else self._parameters.beginnings
        openings = [[*section, *call, *head]]
        if markup.optional_prefix:
            openings.append([*atoms_of_words(markup.optional_prefix), *section, *call, *head])
        following = [[*separator, *call, *head]] if separator or section else []
        closes = [close] if close else []
        self.trigger = markup.trigger
        self._id_comes_first = ID in markup.head_before_name
        calls_begin = markup.text_cannot_begin_with
        if markup.trigger_has_name:
            before_name = re.escape(markup.call_open + markup.head_before_name)
            calls_begin = f"{before_name}({PLACEHOLDERS[NAME]}){re.escape(markup.head_after_name)}"
        self._calls_begin = re.compile(calls_begin) if calls_begin else None
        self.only_at_start = markup.only_at_start
        self.only_calls_follow = markup.trigger_has_name
        """Whether grammars allow nothing but calls behind a call."""
        self.separators = WHITESPACE + markup.separator
        self.opening = ExpectedMarkup(heads=openings, after_head=after_head)
        tail = "" if self._parameters is not None else markup.tail  # it is what ends the parameters
        after_each = [atoms_of_words(text) for text in (tail, markup.call_close) if text.strip()]
        self.after_arguments = [ExpectedMarkup(shape) for shape in after_each]
        """The markup after a call's arguments, in order."""
        if following or closes:
            self.after_arguments.append(ExpectedMarkup(*closes, heads=following, after_head=after_head))

    def is_certain(self, opening: str, functions: Container[str] | None) -> bool:
        """Whether this part of an opening becomes a call if a grammar enforces what follows the trigger.

        `functions` are those that may be called; None: any.
        """
        if self._calls_begin is None:
            return True
        match = self._calls_begin.match(opening)
        return match is not None and (functions is None or match.lastindex is None or match[1] in functions)

    def start(self, call: int, match: re.Match[str]) -> ToolCallStart:
        """Return the beginning of the call whose opening was matched."""
        matched = [group for group in match.groups() if group is not None]
        if len(matched) == 1:
            return ToolCallStart(call, matched[0])
        call_id, name = matched if self._id_comes_first else reversed(matched)
        return ToolCallStart(call, name, call_id)

    def arguments(self, types: Mapping[str, bool] | ValueTypes | None) -> ArgumentsReader:
        """Return a reader of one call's arguments. `types` is an item of ArgumentTypes; None: they are unknown."""
        match self._parameters:
            case None:
                return JsonValueScanner()
            case ArgumentSyntax():
                return ValueReader(self._parameters)
            case ElementArguments():
                return ElementReader(self._parameters, types if isinstance(types, ValueTypes) else None)
            case _:
                return TaggedArguments(self._parameters, None if isinstance(types, ValueTypes) else types)


ToolCallMode = Literal["none", "from trigger", "whole answer"]
"""Where a grammar enforces the markup, so that the beginning of a call is certain to become one."""


class ToolCallParser:
    """Implements parts.OutputParser."""

    def __init__(
        self,
        syntax: ToolCallSyntax,
        mode: ToolCallMode = "none",
        strings: ArgumentTypes | None = None,
        *,
        functions: Container[str] | None = None,
        prompt_end: str = "",
    ) -> None:
        """`strings` are known if a grammar enforces the tools' parameters.

        `functions`: those that may be called, if only their names make a call; None: any name. `prompt_end`: what the
        prompt ends with, if that begins a call.
        """
        self._syntax = syntax
        self._functions = functions
        self._prompt_end = prompt_end
        """The part of the buffer that is no part of the answer."""
        self._mode = mode
        self._strings = strings or {}
        self._expected = [syntax.opening] if syntax.only_at_start or prompt_end else []
        """The markup that must come next; empty within arguments and text."""
        self._arguments: ArgumentsReader | None = None
        """Reads the current call's arguments."""
        self._buffer = prompt_end
        self._held_whitespace = ""
        """Whitespace directly before the opening that is being parsed."""
        self._call_count = 0
        self._after_call = False
        """Whether there was only whitespace since a call."""

    def feed(self, text: str) -> list[OutputPart]:
        self._buffer += text
        parts: list[OutputPart] = []
        has_more = True
        while has_more:
            if self._arguments is not None:
                has_more = self._parse_arguments(self._arguments, parts)
            elif self._expected:
                has_more = self._parse_markup(self._expected[0], parts)
            else:
                has_more = self._parse_text(parts)
        return parts

    def finish(self) -> list[OutputPart]:
        parts: list[OutputPart] = []
        space, self._held_whitespace = self._held_whitespace, ""
        rest, self._buffer = self._buffer, ""
        if self._arguments is not None:
            return []  # The held text is an argument that was cut.
        is_certain = bool(self._prompt_end) or self._syntax.is_certain(rest, self._functions)
        rest, self._prompt_end = rest[len(self._prompt_end) :], ""
        if self._mode == "from trigger" and self._after_call and self._syntax.only_calls_follow:
            return []
        in_opening = bool(self._expected) and self._expected[0].opens_call and is_certain
        if self._mode == "whole answer" or (self._mode == "from trigger" and in_opening):
            return []  # The held text is a call that was cut before its arguments.
        if not self._expected:
            if not self._after_call or rest.strip(WHITESPACE):
                self._emit_text(rest, parts)
        elif self._expected[0] is self._syntax.opening:
            self._emit_text(space + rest, parts)
        elif self._expected[0].opens_call and rest.strip(self._syntax.separators):
            self._emit_text(rest, parts)
        return parts

    @property
    def in_content(self) -> bool:
        return self._arguments is None

    @property
    def in_reasoning(self) -> bool:
        return False

    @property
    def held_characters(self) -> int:
        if self._arguments is not None:
            return 0
        return len(self._held_whitespace) + len(self._buffer) - len(self._prompt_end)

    def _parse_text(self, parts: list[OutputPart]) -> bool:
        """Parse text up to a trigger. True if there is more to parse."""
        if self._syntax.only_at_start:
            text, self._buffer = self._buffer, ""
            self._emit_text(text, parts)
            return False
        found = self._buffer.find(self._syntax.trigger)
        end = found if found >= 0 else len(self._buffer) - overlap(self._buffer, self._syntax.trigger)
        text = self._buffer[: end_of_text(self._buffer, end)]
        self._emit_text(text, parts)
        if found < 0:
            self._buffer = self._buffer[len(text) :]
            return False
        self._held_whitespace, self._buffer = self._buffer[len(text) : found], self._buffer[found:]
        self._expected = [self._syntax.opening]
        return True

    def _parse_markup(self, expected: ExpectedMarkup, parts: list[OutputPart]) -> bool:
        """Parse expected markup, or give it up. True if there is more to parse."""
        match = expected.match(self._buffer)
        if match is None and expected.matches_prefix(self._buffer):
            return False
        if match is None or not self._may_be_called(match):
            self._abandon_markup(expected, parts)
            return True
        self._buffer, self._prompt_end = self._buffer[match.end() :], ""
        self._expected = self._expected[1:]
        if match.lastindex is not None:
            start = self._syntax.start(self._call_count, match)
            parts.append(start)
            self._arguments, self._held_whitespace = self._syntax.arguments(self._strings.get(start.name)), ""
        return True

    def _may_be_called(self, match: re.Match[str]) -> bool:
        """Whether the name in matched markup, if there is one, is that of a call."""
        if self._functions is None or match.lastindex is None:
            return True
        return self._syntax.start(0, match).name in self._functions

    def _abandon_markup(self, expected: ExpectedMarkup, parts: list[OutputPart]) -> None:
        """Treat the buffer, which does not match the expected markup, as text in which another call may begin."""
        self._expected = []
        if self._prompt_end:
            self._buffer, self._prompt_end = self._buffer[len(self._prompt_end) :], ""
        elif expected is self._syntax.opening and not self._syntax.only_at_start:
            self._emit_text(self._held_whitespace + self._syntax.trigger, parts)
            self._held_whitespace, self._buffer = "", self._buffer[len(self._syntax.trigger) :]

    def _parse_arguments(self, arguments: ArgumentsReader, parts: list[OutputPart]) -> bool:
        text, length, is_complete = arguments.read(self._buffer)
        if text:
            parts.append(ToolCallArguments(self._call_count, text))
        self._buffer = self._buffer[length:]
        if not is_complete:
            return False
        parts.append(ToolCallEnd(self._call_count))
        self._call_count += 1
        self._arguments, self._expected, self._after_call = None, self._syntax.after_arguments, True
        return True

    def _emit_text(self, text: str, parts: list[OutputPart]) -> None:
        if text:
            parts.append(ContentText(text))
            self._after_call = False
