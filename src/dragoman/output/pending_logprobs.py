"""Log-probabilities wait here until the text of their tokens is shown, since stop strings and markup hold text back."""

from collections import deque

from dragoman.core.events import TokenLogprobs


class PendingLogprobs:
    """What there is to tell of tokens, in their order, with the characters each stands for."""

    def __init__(self) -> None:
        self._entries: deque[tuple[TokenLogprobs, int]] = deque()
        """Each with the characters of its text that are not shown yet."""
        self._shown_characters = 0
        """Characters of the first waiting report that are shown already."""

    def add(self, logprobs: TokenLogprobs, characters: int) -> None:
        """A token that stands for so many characters, none of them shown yet."""
        self._entries.append((logprobs, characters))

    def release(self, characters: int) -> list[TokenLogprobs]:
        """So many more characters are shown: the reports of tokens that are shown whole."""
        released = []
        shown = self._shown_characters + characters
        while self._entries and self._entries[0][1] <= shown:
            logprobs, length = self._entries.popleft()
            released.append(logprobs)
            shown -= length
        self._shown_characters = shown if self._entries else 0
        return released

    def drop_unshown(self) -> None:
        """The text that is not shown yet was markup."""
        partly_shown = self._entries[0] if self._entries and self._shown_characters else None
        self._entries.clear()
        if partly_shown is not None:
            self._entries.append((partly_shown[0], self._shown_characters))

    def finish(self) -> list[TokenLogprobs]:
        """Nothing more is shown: the reports of a token that is shown in part, and of those without any text."""
        remaining = []
        for logprobs, characters in self._entries:
            if characters and not self._shown_characters:
                break
            remaining.append(logprobs)
            self._shown_characters = 0
        self._entries.clear()
        return remaining
