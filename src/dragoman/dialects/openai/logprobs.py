"""Converts log-probabilities to OpenAI's JSON: the form of chats, and the older one of text completions."""

import codecs
from collections.abc import Callable, Iterable

import msgspec

from dragoman.core.events import TokenLogprobs, TopLogprob


class ChatTopLogprob(msgspec.Struct, frozen=True):
    """`token` shows a part of a character as U+FFFD; `bytes` are its UTF-8 bytes."""

    token: str
    logprob: float
    """Natural logarithm; minus infinity is -9999."""
    bytes: list[int]


class ChatTokenLogprob(msgspec.Struct, frozen=True):
    """A token of the answer, and the likeliest ones at its position."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[ChatTopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """The tokens of an answer, or of one chunk of it."""

    content: list[ChatTokenLogprob]
    refusal: None = None


class TextLogprobs(msgspec.Struct, frozen=True):
    """Four lists with one entry per token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    """None for the first token of a prompt, which has no context."""
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    """The offset of the token in the choice's text, in characters."""


TokenText = Callable[[int, bytes], str]
"""Returns how a token is shown, from its id and its bytes."""


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


def plain_text(_token_id: int, token: bytes) -> str:
    """Show a token as its text, with U+FFFD for a part of a character."""
    return token.decode(errors="replace")


def token_id_text(token_id: int, _token: bytes) -> str:
    """Show a token as its id, in vLLM's form."""
    return f"token_id:{token_id}"


def chat_token_logprobs(
    logprobs: Iterable[TokenLogprobs], text: TokenText = plain_text, *, include_sampled: bool = False
) -> list[ChatTokenLogprob]:
    """Convert tokens of an answer to the form of chats.

    `include_sampled`: the list of the likeliest tokens also has the sampled one if it is not among them.
    """
    return [
        ChatTokenLogprob(
            text(entry.token_id, entry.token),
            _required(entry.logprob),
            list(entry.token),
            [
                ChatTopLogprob(text(likely.token_id, likely.token), likely.logprob, list(likely.token))
                for likely in (_top_with_sampled(entry) if include_sampled and entry.top else entry.top)
            ],
        )
        for entry in logprobs
    ]


def text_logprobs(
    logprobs: Iterable[TokenLogprobs], offsets: TextOffsets, text: TokenText = plain_text
) -> TextLogprobs:
    """Convert tokens of a text; `offsets` has seen all tokens before them in their choice."""
    tokens = list(logprobs)
    return TextLogprobs(
        [text(entry.token_id, entry.token) for entry in tokens],
        [entry.logprob for entry in tokens],
        [_top_by_text(entry, text) for entry in tokens],
        [offsets.advance(entry.token) for entry in tokens],
    )


def _top_with_sampled(entry: TokenLogprobs) -> list[TopLogprob]:
    """Return the likeliest tokens, and the sampled one after them if it is not among them."""
    if entry.logprob is None or any(likely.token_id == entry.token_id for likely in entry.top):
        return entry.top
    return [*entry.top, TopLogprob(entry.token_id, entry.token, entry.logprob)]


def _top_by_text(entry: TokenLogprobs, text: TokenText) -> dict[str, float] | None:
    """Return the likeliest tokens by their text, the token itself included: OpenAI's and vLLM's logprobs + 1 entries.

    Of tokens with equal text the likeliest counts.
    """
    if entry.logprob is None:
        return None
    top: dict[str, float] = {}
    for likely in _top_with_sampled(entry):
        top.setdefault(text(likely.token_id, likely.token), likely.logprob)
    return top


def _required(logprob: float | None) -> float:
    assert logprob is not None, "only a prompt's first token has none, and chats do not echo their prompt"
    return logprob
