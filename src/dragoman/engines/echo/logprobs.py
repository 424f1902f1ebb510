"""Which tokens of an answer have been shown, when text is held back or cut off: those have log-probabilities."""

import codecs
from collections import deque

from dragoman.core.events import Likelihood, TokenLogprobs


class ShownTokens:
    """One choice's tokens, from the moment they are sampled until their text is shown."""

    def __init__(self, top: int) -> None:
        """`top`: how many likeliest tokens are told; the one that is echoed is the only one there is."""
        self._top = min(top, 1)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._sampled_characters = 0
        self._shown_characters = 0
        self._waiting: deque[tuple[int, int]] = deque()

    def sampled(self, token: int) -> None:
        """A byte of text was sampled."""
        self._waiting.append((self._sampled_characters, token))
        self._sampled_characters += len(self._decoder.decode(bytes((token,))))

    def shown(self, text: str) -> list[TokenLogprobs]:
        """More text was shown; returns the tokens that are shown with it."""
        self._shown_characters += len(text)
        told: list[TokenLogprobs] = []
        while self._waiting and self._waiting[0][0] < self._shown_characters:
            told.append(certain(self._waiting.popleft()[1], self._top))
        return told


def certain(token: int, top: int) -> TokenLogprobs:
    """A byte that had to come."""
    piece = bytes((token,))
    return TokenLogprobs(token, piece, 0.0, [Likelihood(token, piece, 0.0)] if top else [])


def of_prompt(prompt: bytes, top: int) -> list[TokenLogprobs]:
    """A prompt's bytes. Nothing comes before the first, so it has no probability."""
    [first, *rest] = prompt
    return [TokenLogprobs(first, bytes((first,)), None, []), *(certain(token, top) for token in rest)]
