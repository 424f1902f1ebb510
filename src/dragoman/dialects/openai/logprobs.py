"""Converts log-probabilities to OpenAI's JSON: the form of chats, and the older one of text completions."""

import codecs
from collections.abc import Iterable

from dragoman.core.events import TokenLogprobs
from dragoman.dialects.openai.wire import ChatTokenLogprob, ChatTopLogprob, TextLogprobs


class TextOffsets:
    """Computes the offset of each next token of a choice in its text."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._characters = 0

    def advance(self, token: bytes) -> int:
        """Return the number of characters before the token. All parts of a character begin where it does."""
        start = self._characters
        self._characters += len(self._decoder.decode(token))
        return start


def chat_token_logprobs(logprobs: Iterable[TokenLogprobs]) -> list[ChatTokenLogprob]:
    """Convert tokens of an answer to the form of chats."""
    return [
        ChatTokenLogprob(
            _display_text(entry.token),
            _required(entry.logprob),
            list(entry.token),
            [ChatTopLogprob(_display_text(likely.token), likely.logprob, list(likely.token)) for likely in entry.top],
        )
        for entry in logprobs
    ]


def text_logprobs(logprobs: Iterable[TokenLogprobs], offsets: TextOffsets) -> TextLogprobs:
    """Convert tokens of a text; `offsets` has seen all tokens before them in their choice."""
    tokens = list(logprobs)
    return TextLogprobs(
        [_display_text(entry.token) for entry in tokens],
        [entry.logprob for entry in tokens],
        [_top_by_text(entry) for entry in tokens],
        [offsets.advance(entry.token) for entry in tokens],
    )


def _top_by_text(entry: TokenLogprobs) -> dict[str, float] | None:
    """Return the likeliest tokens by their text. Of tokens with equal text the likeliest counts."""
    if entry.logprob is None:
        return None
    top: dict[str, float] = {}
    for likely in entry.top:
        top.setdefault(_display_text(likely.token), likely.logprob)
    return top


def _required(logprob: float | None) -> float:
    assert logprob is not None, "only a prompt's first token has none, and chats do not echo their prompt"
    return logprob


def _display_text(token: bytes) -> str:
    return token.decode(errors="replace")
