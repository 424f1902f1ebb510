"""Processing of sampled tokens: the text to show and the end of a choice, for every engine that samples itself."""

import codecs
import secrets
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from dragoman.core.events import AnyDelta, Delta, FinishReason, ReasoningDelta, TokenLogprobs, ToolCallDelta
from dragoman.core.request import SamplingParams
from dragoman.output.parts import (
    ContentText,
    OutputParser,
    OutputPart,
    ReasoningText,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)


class _StopString:
    """One stop string as a Knuth-Morris-Pratt automaton: constant work per character, whatever the length."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        """Length of the longest prefix of the string that the text so far ends with."""
        self._fallback = [0] * len(text)
        length = 0
        for position in range(1, len(text)):
            while length and text[position] != text[length]:
                length = self._fallback[length - 1]
            length += text[position] == text[length]
            self._fallback[position] = length

    def read(self, character: str) -> bool:
        """Read one character. True if it completes the string."""
        while self.matched and self.text[self.matched] != character:
            self.matched = self._fallback[self.matched - 1]
        self.matched += self.text[self.matched] == character
        return self.matched == len(self.text)


class StopMatcher:
    """Holds back the longest possible prefix of a stop string and stops at the first complete one.

    If one character completes several, the longest counts, since it began first.
    """

    def __init__(self, stop: Sequence[str], *, include_stop_text: bool = False) -> None:
        self._patterns = [_StopString(text) for text in stop]
        self._include_stop_text = include_stop_text
        self._held_text = ""
        self.stopped_by: str | None = None
        """The stop string that was found."""

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self.stopped_by is not None

    def feed(self, text: str) -> str:
        """Return the text that may be shown now; none after `stopped`."""
        if not self._patterns:
            return text
        if self.stopped:
            return ""
        held = len(self._held_text)
        text = self._held_text + text
        for position in range(held, len(text)):
            complete = [pattern for pattern in self._patterns if pattern.read(text[position])]
            if complete:
                longest = max((pattern.text for pattern in complete), key=len)
                self.stopped_by, self._held_text = longest, ""
                return text[: position + 1 - (0 if self._include_stop_text else len(longest))]
        boundary = len(text) - max(pattern.matched for pattern in self._patterns)
        self._held_text = text[boundary:]
        return text[:boundary]

    def flush(self) -> str:
        """Return the held text, at the end of the text or before something that is not text."""
        held, self._held_text = self._held_text, ""
        for pattern in self._patterns:
            pattern.matched = 0
        return held


_decode_utf8 = codecs.utf_8_decode

_NO_TOKENS: frozenset[int] = frozenset()

_NO_STOP_STRINGS = StopMatcher(())
"""Without any, there is nothing to remember: all choices share it."""

_CALL_ID_BYTES = 12


class DetokenizerVocabulary(Protocol):
    """The text of a model's tokens."""

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        ...

    def piece(self, token: int) -> bytes:
        """Return the token's bytes, possibly a part of a character."""
        ...

    def is_special(self, token: int) -> bool:
        """Whether the token is markup rather than text."""
        ...


class TokenOutput(NamedTuple):
    """The output of one token."""

    deltas: list[AnyDelta]
    """At least one; the first has the token."""
    reason: FinishReason | None
    """Why the choice ends with this token; None: it continues."""


class PendingLogprobs:
    """A queue of log-probabilities whose tokens' text is not shown yet, because of stop strings or markup."""

    def __init__(self) -> None:
        self._entries: deque[tuple[TokenLogprobs, int]] = deque()
        """Each with the length of its text in characters."""
        self._shown_characters = 0
        """Characters of the first entry's text that are shown already."""

    def add(self, logprobs: TokenLogprobs, characters: int) -> None:
        """Append a token with this many characters, none of them shown yet."""
        self._entries.append((logprobs, characters))

    def release(self, characters: int) -> list[TokenLogprobs]:
        """Count this many more characters as shown and return the tokens that are now shown whole."""
        released = []
        shown = self._shown_characters + characters
        while self._entries and self._entries[0][1] <= shown:
            logprobs, length = self._entries.popleft()
            released.append(logprobs)
            shown -= length
        self._shown_characters = shown if self._entries else 0
        return released

    def drop_unshown(self) -> None:
        """Discard the text that is not shown yet, because it was markup."""
        partly_shown = self._entries[0] if self._entries and self._shown_characters else None
        self._entries.clear()
        if partly_shown is not None:
            self._entries.append((partly_shown[0], self._shown_characters))

    def finish(self) -> list[TokenLogprobs]:
        """Return, when no more text will be shown, a partly shown token and those without text."""
        remaining = []
        for logprobs, characters in self._entries:
            if characters and not self._shown_characters:
                break
            remaining.append(logprobs)
            self._shown_characters = 0
        self._entries.clear()
        return remaining


class OutputProcessor:
    """Counts the tokens of one choice, splits their text into deltas and finds the end."""

    def __init__(
        self,
        vocabulary: DetokenizerVocabulary,
        sampling: SamplingParams,
        limit: int,
        *,
        index: int = 0,
        parser: OutputParser | None = None,
        markup: frozenset[int] = frozenset(),
    ) -> None:
        """Process at most `limit` tokens: max_tokens, or less if the context has less room.

        `parser` separates content, reasoning and tool calls; None: all text is content. `markup` has the special tokens
        whose text the parser needs.
        """
        self._vocabulary = vocabulary
        self._sampling = sampling
        self._limit = limit
        self._min_tokens = min(sampling.min_tokens, limit)
        self._index = index
        self._parser = parser
        self._markup = markup
        self._is_plain = parser is None and not sampling.stop
        """Whether all text is content that is shown at once."""
        self._end_token_ids = _NO_TOKENS if sampling.ignore_eos else vocabulary.end_token_ids
        self._ends = self._end_token_ids.union(sampling.stop_token_ids)
        self._matcher = _NO_STOP_STRINGS
        if sampling.stop:
            self._matcher = StopMatcher(sampling.stop, include_stop_text=sampling.include_stop_text)
        self._partial_character = b""
        self._previous_is_shown_special = False
        self._pending_logprobs = PendingLogprobs()
        self._complete_calls = 0
        self._call_ids: set[str] = set()
        self.stop_reason: str | int | None = None
        """The stop string or the stop token id that ended the choice."""
        self.tokens = 0
        self.reasoning_tokens = 0
        """The number of `tokens` that were reasoning."""

    @property
    def ends_are_barred(self) -> bool:
        """Whether tokens that end the choice must not be sampled yet (min_tokens)."""
        return self.tokens < self._min_tokens

    @property
    def in_reasoning(self) -> bool:
        """Whether the choice is in its reasoning."""
        return self._parser is not None and self._parser.in_reasoning

    def accept(
        self, token: int, logprobs: TokenLogprobs | None = None, *, grammar_complete: bool = False
    ) -> TokenOutput:
        """Process one token. `grammar_complete`: the choice's grammar allows no further token.

        The order of the checks is that of docs/sampling.md, "When a choice ends".
        """
        self.tokens += 1
        may_end = token in self._ends or grammar_complete or self.tokens >= self._limit
        if self._is_plain and logprobs is None and not may_end:
            # NamedTuple's own __new__ is a function of Python, which takes longer than all else here.
            return tuple.__new__(TokenOutput, ([Delta(self._index, self._decode(token), [token])], None))
        if self._parser is not None:
            self.reasoning_tokens += self._parser.in_reasoning
        sampling = self._sampling
        if self.tokens < self._min_tokens:
            return self._token_output(
                token, self._process_text(self._decode(token), logprobs, match_stop_strings=False), None
            )
        is_end = token in self._end_token_ids
        if is_end or token in sampling.stop_token_ids:
            last = self._decode(token) if sampling.include_stop_text and not is_end else ""
            shown = self._process_text(last, logprobs, match_stop_strings=False) if last else []
            self.stop_reason = None if is_end else token
            return self._token_output(token, [*shown, *self._flush()], "stop")
        deltas = self._process_text(self._decode(token), logprobs)
        if self._matcher.stopped_by is not None:
            self.stop_reason = self._matcher.stopped_by
            return self._token_output(token, [*deltas, *self._remaining_logprobs()], "stop")
        if grammar_complete:
            return self._token_output(token, [*deltas, *self._flush()], "stop")
        if self.tokens >= self._limit:
            return self._token_output(token, [*deltas, *self._flush()], "length")
        return self._token_output(token, deltas, None)

    def _token_output(self, token: int, deltas: list[AnyDelta], reason: FinishReason | None) -> TokenOutput:
        if reason == "stop" and self._complete_calls:
            reason = "tool_calls"
        if not deltas:
            return TokenOutput([Delta(self._index, "", [token])], reason)
        deltas[0] = msgspec.structs.replace(deltas[0], token_ids=[token])
        return TokenOutput(deltas, reason)

    def _process_text(
        self, text: str, logprobs: TokenLogprobs | None, *, match_stop_strings: bool = True
    ) -> list[AnyDelta]:
        """Parse new text and return the deltas that may be shown now."""
        if self._parser is None and logprobs is None:  # The usual case, of every token.
            if not text:
                return []
            return self._content(self._matcher.feed(text) if match_stop_strings else self._matcher.flush() + text)
        held_before = self._held_characters
        parts = self._parse(text)
        content = sum(len(part.text) for part in parts if isinstance(part, ContentText)) + self._held_characters
        if logprobs is not None:
            self._add_logprobs(logprobs, text, min(len(text), content))
        deltas = self._deltas(parts, match_stop_strings=match_stop_strings)
        if content < held_before + len(text):  # The rest was markup or reasoning.
            self._pending_logprobs.drop_unshown()
        return deltas

    def _parse(self, text: str) -> list[OutputPart]:
        if self._parser is not None:
            return self._parser.feed(text)
        return [ContentText(text)] if text else []

    @property
    def _held_characters(self) -> int:
        return self._parser.held_characters if self._parser else 0

    def _add_logprobs(self, logprobs: TokenLogprobs, text: str, content: int) -> None:
        """Queue the log-probabilities of a token with this many characters of `content`, or with a part of one."""
        in_content = self._parser is None or self._parser.in_content
        is_partial = not text and in_content and not self._vocabulary.is_special(logprobs.token_id)
        if content > 0 or is_partial:
            self._pending_logprobs.add(logprobs, content)

    def _deltas(self, parts: list[OutputPart], *, match_stop_strings: bool = True) -> list[AnyDelta]:
        deltas: list[AnyDelta] = []
        for part in parts:
            if self._matcher.stopped_by is not None:
                break
            if not isinstance(part, ContentText):
                deltas += self._content(self._matcher.flush())
            match part:
                case ContentText(text):
                    deltas += self._content(
                        self._matcher.feed(text) if match_stop_strings else self._matcher.flush() + text
                    )
                case ReasoningText(text):
                    deltas.append(ReasoningDelta(self._index, text, []))
                case ToolCallStart(call, name, written_id):
                    # The model's own id comes back in the next prompt, as it was generated.
                    call_id = _new_call_id() if written_id is None or written_id in self._call_ids else written_id
                    self._call_ids.add(call_id)
                    deltas.append(
                        ToolCallDelta(index=self._index, call_index=call, arguments="", id=call_id, name=name)
                    )
                case ToolCallArguments(call, text):
                    deltas.append(ToolCallDelta(index=self._index, call_index=call, arguments=text, token_ids=[]))
                case ToolCallEnd():
                    self._complete_calls += 1
        return deltas

    def _content(self, text: str) -> list[AnyDelta]:
        return [Delta(self._index, text, [], self._pending_logprobs.release(len(text)))] if text else []

    def _decode(self, token: int) -> str:
        piece = self._vocabulary.piece(token)
        # The parser reads markup as the model wrote it.
        if self._vocabulary.is_special(token) and token not in self._markup:
            return self._decode_special(piece)
        self._previous_is_shown_special = False
        if self._partial_character:
            return self._decode_bytes(piece)
        text, decoded = _decode_utf8(piece, "replace", False)
        if decoded < len(piece):
            self._partial_character = piece[decoded:]
        return text

    def _decode_special(self, piece: bytes) -> str:
        if self._sampling.skip_special_tokens:
            return ""
        separated = self._previous_is_shown_special and self._sampling.spaces_between_special_tokens
        self._previous_is_shown_special = True
        text = self._decode_bytes(piece)
        return f" {text}" if separated else text

    def _decode_bytes(self, piece: bytes, *, is_last: bool = False) -> str:
        """Return the characters that are complete now. Invalid bytes become U+FFFD."""
        if self._partial_character:
            piece = self._partial_character + piece
        text, decoded = _decode_utf8(piece, "replace", is_last)
        self._partial_character = piece[decoded:]
        return text

    def _flush(self) -> list[AnyDelta]:
        """Return the held text at the end of a choice."""
        if self._is_plain and not self._partial_character:
            return self._remaining_logprobs()
        parts = self._parse(self._decode_bytes(b"", is_last=True))
        if self._parser is not None:
            parts += self._parser.finish()
        return [*self._deltas(parts), *self._content(self._matcher.flush()), *self._remaining_logprobs()]

    def _remaining_logprobs(self) -> list[AnyDelta]:
        """Return the log-probabilities of tokens that are shown in part or are a part of a character."""
        logprobs = self._pending_logprobs.finish()
        return [Delta(self._index, "", [], logprobs)] if logprobs else []


def _new_call_id() -> str:
    return f"call_{secrets.token_hex(_CALL_ID_BYTES)}"
