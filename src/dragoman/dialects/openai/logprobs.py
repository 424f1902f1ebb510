"""Log-probabilities in OpenAI's JSON: the form of chats, and the older one of text completions."""

import codecs
from collections.abc import Iterable

import msgspec

from dragoman.core.events import TokenLogprobs

MAX_TOP_LOGPROBS = 20


class ChatTopLogprob(msgspec.Struct, frozen=True):
    """`token` shows a part of a character as U+FFFD; `bytes` are its UTF-8 bytes."""

    token: str
    logprob: float
    """Natural logarithm; minus infinity is -9999."""
    bytes: list[int]


class ChatTokenLogprob(msgspec.Struct, frozen=True):
    """A token of the answer, and the likeliest ones at its place."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[ChatTopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """Of the tokens of an answer, or of one chunk of it."""

    content: list[ChatTokenLogprob]
    refusal: None = None


class TextLogprobs(msgspec.Struct, frozen=True):
    """Four lists with one entry a token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    """None: the first token of a prompt, which nothing comes before."""
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    """Where the token's text begins within the choice's, in characters."""


class TextOffsets:
    """Where the text of each next token of a choice begins."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._characters = 0

    def advance(self, token: bytes) -> int:
        """The number of characters before the token. All parts of a character begin where it does."""
        start = self._characters
        self._characters += len(self._decoder.decode(token))
        return start


def chat_token_logprobs(logprobs: Iterable[TokenLogprobs]) -> list[ChatTokenLogprob]:
    """Tokens of an answer in the form of chats."""
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
    """Tokens of a text, in its own form; `offsets` has seen all that came before them in their choice."""
    tokens = list(logprobs)
    return TextLogprobs(
        [_display_text(entry.token) for entry in tokens],
        [entry.logprob for entry in tokens],
        [_top_by_text(entry) for entry in tokens],
        [offsets.advance(entry.token) for entry in tokens],
    )


def _top_by_text(entry: TokenLogprobs) -> dict[str, float] | None:
    """The likeliest tokens by their text. Of several that look alike, the likeliest is told."""
    if entry.logprob is None:
        return None
    top: dict[str, float] = {}
    for likely in entry.top:
        top.setdefault(_display_text(likely.token), likely.logprob)
    return top


def _required(logprob: float | None) -> float:
    assert logprob is not None, "only a prompt's first token has none, and chats do not show their prompt"
    return logprob


def _display_text(token: bytes) -> str:
    return token.decode(errors="replace")
