"""Grammars of answers that are, or may become, tool calls."""

import re
from collections.abc import Callable, Mapping

from dragoman.output.grammar.lark import quoted, regex
from dragoman.output.markup import PLACEHOLDERS, ToolCallMarkup, split_at_placeholders

SpecialTokenLookup = Callable[[str], int | None]
"""Returns the id of a text that is one token of the model's vocabulary, else None."""

_TEXT = "TEXT: /(?s:.*)/"


class ToolCallGrammar:
    """Builds complete grammars of answers with calls in one family's markup.

    `arguments` has the Lark rule of each tool's arguments by the tool's name, and is not empty. `several` allows more
    than one call.
    """

    def __init__(
        self, markup: ToolCallMarkup, arguments: Mapping[str, str], several: bool, special_token: SpecialTokenLookup
    ) -> None:
        self._markup = markup
        self._arguments = arguments
        self._several = several
        self._special_token = special_token

    def only_calls(self) -> str:
        """Allow only calls."""
        return f"start: calls\n{self._calls()}"

    def calls_or_answer(self, answer: str) -> str:
        """Allow either only calls, or what `answer`, the body of a rule, allows."""
        return f"start: answer | calls\nanswer: {answer}\n{self._calls()}"

    def calls_in_text(self) -> str:
        """Allow any text, in which the trigger begins a call."""
        if self._markup.only_at_start:
            return self.calls_or_answer(_text_without_prefix(self._markup.trigger))
        first, *_ = self._split_at_special_tokens(self._markup.trigger)
        call_rest = self._alternatives(self._markup.section_open, consumed_prefix=first)
        if self._several and not self._markup.section_open:
            start = "(lead call_rest)* TEXT"  # any text may stand between two calls
        else:
            start = f"TEXT | lead call_rest {self._further_calls()}"
        return "\n".join(
            [f"start: {start}", f"call_rest: {call_rest}", f"call: {self._alternatives()}", self._lead(first), _TEXT]
        )

    def _calls(self) -> str:
        opening = self._alternatives(self._markup.section_open)
        return f"calls: opening {self._further_calls()}\nopening: {opening}\ncall: {self._alternatives()}"

    def _further_calls(self) -> str:
        """Match what follows the first call of a section."""
        more = f"({self._literals(self._markup.separator)} call)*" if self._several else ""
        return f"{more} {self._literals(self._markup.section_close)}".strip()

    def _alternatives(self, section_open: str = "", consumed_prefix: str = "") -> str:
        """Match one call of any tool, without `consumed_prefix`, which is already matched."""
        markup = self._markup
        beginning = section_open + markup.call_open
        end = self._literals(markup.tail + markup.call_close)
        return " | ".join(
            f"{self._literals((beginning + markup.head(name)).removeprefix(consumed_prefix))} {arguments} {end}"
            for name, arguments in self._arguments.items()
        )

    def _lead(self, first: str) -> str:
        """Match text up to the first part of the trigger, as a special token or spelled in ordinary ones."""
        spelled = f"spelled[lazy]: TEXT {quoted(first)}"
        token = self._special_token_id(first)
        return f"lead: {'' if token is None else f'TEXT <[{token}]> | '}spelled\n{spelled}"

    def _literals(self, text: str) -> str:
        return " ".join(
            self._literal(part)
            for piece in split_at_placeholders(text)
            for part in ([piece] if piece in PLACEHOLDERS else self._split_at_special_tokens(piece))
        )

    def _literal(self, part: str) -> str:
        if part in PLACEHOLDERS:
            return regex(PLACEHOLDERS[part])
        token = self._special_token_id(part)
        return quoted(part) if token is None else f"<[{token}]>"

    def _split_at_special_tokens(self, text: str) -> list[str]:
        """Split the text before and after special tokens."""
        tokens = [text for text in self._markup.special_tokens if self._special_token_id(text) is not None]
        if not tokens:
            return [text] if text else []
        longest_first = sorted(tokens, key=len, reverse=True)
        return [part for part in re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if part]

    def _special_token_id(self, part: str) -> int | None:
        return self._special_token(part) if part in self._markup.special_tokens else None


def _text_without_prefix(prefix: str) -> str:
    """Return a regular expression that matches every text without this prefix."""
    any_text = r"(?s:.*)"
    pattern = ""
    for character in reversed(prefix):
        code = rf"\x{{{ord(character):X}}}"
        pattern = f"(?:[^{code}]{any_text}|{code}{pattern})?" if pattern else f"(?:[^{code}]{any_text})?"
    return f"/{pattern}/"
