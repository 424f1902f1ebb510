"""From sampled tokens to what is shown and the end of a choice, the same for every engine that samples itself."""

import codecs
import secrets
from typing import NamedTuple, Protocol

from dragoman.core.events import AnyDelta, Delta, FinishReason, ReasoningDelta, TokenLogprobs, ToolCallDelta
from dragoman.core.request import SamplingParams
from dragoman.engines.reports import ReportQueue
from dragoman.engines.stop_strings import StopMatcher
from dragoman.prompt.pieces import AnswerReader, CallArguments, CallBegins, CallEnds, Content, Piece, Thought

_CALL_ID_BYTES = 12


class TokenText(Protocol):
    """What a token means as text."""

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        ...

    def piece(self, token: int) -> bytes:
        """The token's bytes, possibly a part of a character."""
        ...

    def is_special(self, token: int) -> bool:
        """Whether the token is markup rather than text."""
        ...


class Accepted(NamedTuple):
    """What one token gave."""

    deltas: list[AnyDelta]
    """At least one; the first has the token."""
    reason: FinishReason | None
    """Why the choice ends with it; None: it does not."""


class Choice:
    """One choice: how many tokens it has, what of their text may be shown and as what, and whether it is over."""

    def __init__(
        self,
        vocabulary: TokenText,
        sampling: SamplingParams,
        limit: int,
        *,
        index: int = 0,
        reader: AnswerReader | None = None,
        markup: frozenset[int] = frozenset(),
    ) -> None:
        """`limit` is the effective max_tokens: never more than the context has room for.

        `reader` tells content, thoughts and tool calls apart; None: all is content. `markup` are special tokens whose
        text it must see.
        """
        self._vocabulary = vocabulary
        self._sampling = sampling
        self._limit = limit
        self._least = min(sampling.min_tokens, limit)
        self._index = index
        self._reader = reader
        self._markup = markup
        self._matcher = StopMatcher(sampling.stop, include_stop_text=sampling.include_stop_text)
        # An incomplete character stays inside until its last byte comes; wrong bytes become U+FFFD.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._previous_is_shown_special = False
        self._reports = ReportQueue()
        self._complete_calls = 0
        self.tokens = 0
        self.reasoning_tokens = 0
        """Of `tokens`, those that were thought rather than said."""

    @property
    def ends_are_barred(self) -> bool:
        """Whether tokens that end the choice must not be sampled yet (min_tokens)."""
        return self.tokens < self._least

    @property
    def in_thought(self) -> bool:
        """Whether the choice is thinking."""
        return self._reader is not None and self._reader.in_thought

    def accept(self, token: int, report: TokenLogprobs | None = None, *, complete: bool = False) -> Accepted:
        """Count one token. `complete`: the grammar that binds the choice has nothing to add.

        The order of the checks is that of docs/sampling.md, "When a choice ends".
        """
        self.tokens += 1
        self.reasoning_tokens += self.in_thought
        sampling = self._sampling
        if self.tokens < self._least:
            return self._accepted(token, self._show(self._decode(token), report, look_for_stops=False), None)
        if token in self._vocabulary.end_token_ids and not sampling.ignore_eos:
            return self._accepted(token, self._flush(), "stop")
        if token in sampling.stop_token_ids:
            last = self._decode(token) if sampling.include_stop_text else ""
            shown = self._show(last, report, look_for_stops=False) if last else []
            return self._accepted(token, [*shown, *self._flush()], "stop")
        deltas = self._show(self._decode(token), report)
        if self._matcher.stopped:
            return self._accepted(token, [*deltas, *self._remaining_reports()], "stop")
        if complete:
            return self._accepted(token, [*deltas, *self._flush()], "stop")
        if self.tokens >= self._limit:
            return self._accepted(token, [*deltas, *self._flush()], "length")
        return self._accepted(token, deltas, None)

    def _accepted(self, token: int, deltas: list[AnyDelta], reason: FinishReason | None) -> Accepted:
        if reason == "stop" and self._complete_calls:
            reason = "tool_calls"
        deltas = deltas or [Delta(self._index, "", [])]
        deltas[0].token_ids.append(token)
        return Accepted(deltas, reason)

    def _show(self, text: str, report: TokenLogprobs | None, *, look_for_stops: bool = True) -> list[AnyDelta]:
        """New text, taken apart, as far as it may be shown now."""
        held = self._held
        pieces = self._take_apart(text)
        content = sum(len(piece.text) for piece in pieces if isinstance(piece, Content)) + self._held
        if report is not None:
            self._report(report, text, min(len(text), content))
        deltas = self._deltas(pieces, look_for_stops=look_for_stops)
        if content < held + len(text):  # The rest was no content.
            self._reports.drop_unshown()
        return deltas

    def _take_apart(self, text: str) -> list[Piece]:
        if self._reader is not None:
            return self._reader.feed(text)
        return [Content(text)] if text else []

    @property
    def _held(self) -> int:
        return self._reader.held if self._reader else 0

    def _report(self, report: TokenLogprobs, text: str, content: int) -> None:
        """Keep the report of a token that gave so many characters of `content`, or a part of one."""
        in_content = self._reader is None or self._reader.in_content
        is_part = not text and in_content and not self._vocabulary.is_special(report.token_id)
        if content > 0 or is_part:
            self._reports.add(report, content)

    def _deltas(self, pieces: list[Piece], *, look_for_stops: bool = True) -> list[AnyDelta]:
        deltas: list[AnyDelta] = []
        for piece in pieces:
            if self._matcher.stopped:
                break
            if not isinstance(piece, Content):
                deltas += self._content(self._matcher.flush())
            match piece:
                case Content(text):
                    deltas += self._content(
                        self._matcher.feed(text) if look_for_stops else self._matcher.flush() + text
                    )
                case Thought(text):
                    deltas.append(ReasoningDelta(self._index, text, []))
                case CallBegins(call, name):
                    deltas.append(ToolCallDelta(self._index, call, "", [], _new_call_id(), name))
                case CallArguments(call, text):
                    deltas.append(ToolCallDelta(self._index, call, text, []))
                case CallEnds():
                    self._complete_calls += 1
        return deltas

    def _content(self, text: str) -> list[AnyDelta]:
        return [Delta(self._index, text, [], self._reports.release(len(text)))] if text else []

    def _decode(self, token: int) -> str:
        special = self._vocabulary.is_special(token)
        if special and self._sampling.skip_special_tokens and token not in self._markup:
            return ""
        separated = special and self._previous_is_shown_special and self._sampling.spaces_between_special_tokens
        self._previous_is_shown_special = special
        return (" " if separated else "") + self._decoder.decode(self._vocabulary.piece(token))

    def _flush(self) -> list[AnyDelta]:
        """What was held back, at the end of a choice."""
        pieces = self._take_apart(self._decoder.decode(b"", final=True))
        if self._reader is not None:
            pieces += self._reader.finish()
        return [*self._deltas(pieces), *self._content(self._matcher.flush()), *self._remaining_reports()]

    def _remaining_reports(self) -> list[AnyDelta]:
        """Of tokens that are shown in part, or stand for a part of a character."""
        reports = self._reports.finish()
        return [Delta(self._index, "", [], reports)] if reports else []


def _new_call_id() -> str:
    return f"call_{secrets.token_hex(_CALL_ID_BYTES)}"
