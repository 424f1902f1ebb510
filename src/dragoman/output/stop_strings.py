"""Search for stop strings in text that arrives in chunks, without releasing a part of one."""

from collections.abc import Sequence


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
        self.stopped = False

    def feed(self, text: str) -> str:
        """Return the text that may be shown now; none after `stopped`."""
        if self.stopped:
            return ""
        if not self._patterns:
            return text
        held = len(self._held_text)
        text = self._held_text + text
        for position in range(held, len(text)):
            complete = [pattern for pattern in self._patterns if pattern.read(text[position])]
            if complete:
                self.stopped, self._held_text = True, ""
                longest = max(len(pattern.text) for pattern in complete)
                return text[: position + 1 - (0 if self._include_stop_text else longest)]
        boundary = len(text) - max(pattern.matched for pattern in self._patterns)
        self._held_text = text[boundary:]
        return text[:boundary]

    def flush(self) -> str:
        """Return the held text, at the end of the text or before something that is not text."""
        held, self._held_text = self._held_text, ""
        for pattern in self._patterns:
            pattern.matched = 0
        return held
