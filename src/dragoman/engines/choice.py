"""From sampled tokens to shown text and the end of a choice, the same for every engine that samples itself."""

import codecs
from typing import Protocol

from dragoman.core.events import FinishReason
from dragoman.core.request import SamplingParams
from dragoman.engines.stop_strings import StopMatcher


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


class Choice:
    """One choice: how many tokens it has, which of their text may be shown, and whether it is over."""

    def __init__(self, vocabulary: TokenText, sampling: SamplingParams, limit: int) -> None:
        """`limit` is the effective max_tokens: never more than the context has room for."""
        self._vocabulary = vocabulary
        self._sampling = sampling
        self._limit = limit
        self._least = min(sampling.min_tokens, limit)
        self._matcher = StopMatcher(sampling.stop, include_stop_text=sampling.include_stop_text)
        # An incomplete character stays inside until its last byte comes; wrong bytes become U+FFFD.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._previous_is_shown_special = False
        self.tokens = 0

    @property
    def ends_are_barred(self) -> bool:
        """Whether tokens that end the choice must not be sampled yet (min_tokens)."""
        return self.tokens < self._least

    def accept(self, token: int) -> tuple[str, FinishReason | None]:
        """Count one sampled token; returns the text that may be shown now and whether the choice ends with it.

        The order of the checks is that of docs/sampling.md, "When a choice ends".
        """
        self.tokens += 1
        if self.tokens < self._least:
            return self._decode(token), None
        if token in self._vocabulary.end_token_ids and not self._sampling.ignore_eos:
            return self._flush(), "stop"
        if token in self._sampling.stop_token_ids:
            last = self._decode(token) if self._sampling.include_stop_text else ""
            return self._matcher.flush() + last + self._decoder.decode(b"", final=True), "stop"
        text = self._matcher.feed(self._decode(token))
        if self._matcher.stopped:
            return text, "stop"
        if self.tokens >= self._limit:
            return text + self._flush(), "length"
        return text, None

    def _decode(self, token: int) -> str:
        special = self._vocabulary.is_special(token)
        if special and self._sampling.skip_special_tokens:
            return ""
        separated = special and self._previous_is_shown_special and self._sampling.spaces_between_special_tokens
        self._previous_is_shown_special = special
        return (" " if separated else "") + self._decoder.decode(self._vocabulary.piece(token))

    def _flush(self) -> str:
        text = self._matcher.feed(self._decoder.decode(b"", final=True))
        return text + self._matcher.flush()
