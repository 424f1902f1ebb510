"""Finding stop strings in text that arrives in pieces, without ever letting a part of one out."""

from collections.abc import Sequence


class _StopString:
    """One stop string as a Knuth-Morris-Pratt automaton: constant work a character, however long the string."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        """Length of the longest beginning of the string that the text read so far ends with."""
        self._fallback = [0] * len(text)
        length = 0
        for position in range(1, len(text)):
            while length and text[position] != text[length]:
                length = self._fallback[length - 1]
            length += text[position] == text[length]
            self._fallback[position] = length

    def read(self, character: str) -> bool:
        """Read one character; True when the string is complete."""
        while self.matched and self.text[self.matched] != character:
            self.matched = self._fallback[self.matched - 1]
        self.matched += self.text[self.matched] == character
        return self.matched == len(self.text)


class StopMatcher:
    """Holds back the longest possible beginning of a stop string and ends at the first one completed.

    Where several are completed by the same character, the longest counts: it began first.
    """

    def __init__(self, stop: Sequence[str], *, include_stop_text: bool = False) -> None:
        self._patterns = [_StopString(text) for text in stop]
        self._include_stop_text = include_stop_text
        self._held_text = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """Text that may be shown now. After `stopped`, nothing more is."""
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
        """What was held back, when the text ends without a stop string, or something that is no text comes after it."""
        held, self._held_text = self._held_text, ""
        for pattern in self._patterns:
            pattern.matched = 0
        return held
