"""A queue of log-probabilities whose tokens' text is not shown yet, because of stop strings or markup."""

from collections import deque

from dragoman.core.events import TokenLogprobs


class PendingLogprobs:
    """The log-probabilities of tokens, in order, with the number of characters of each token's text."""

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
