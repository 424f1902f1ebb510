"""Log-probabilities wait here until the text of their tokens is shown, since stop strings and markup hold text back."""

from collections import deque

from dragoman.core.events import TokenLogprobs


class ReportQueue:
    """What there is to tell of tokens, in their order, with the characters each stands for."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[TokenLogprobs, int]] = deque()
        """Each with the characters of its text that are not shown yet."""
        self._surplus = 0
        """Characters of the first waiting report that are shown already."""

    def add(self, report: TokenLogprobs, characters: int) -> None:
        """A token that stands for so many characters, none of them shown yet."""
        self._waiting.append((report, characters))

    def release(self, characters: int) -> list[TokenLogprobs]:
        """So many more characters are shown: the reports of tokens that are shown whole."""
        released = []
        shown = self._surplus + characters
        while self._waiting and self._waiting[0][1] <= shown:
            report, length = self._waiting.popleft()
            released.append(report)
            shown -= length
        self._surplus = shown if self._waiting else 0
        return released

    def drop_unshown(self) -> None:
        """The text that is not shown yet was markup."""
        kept = self._waiting[0] if self._waiting and self._surplus else None
        self._waiting.clear()
        if kept is not None:
            self._waiting.append((kept[0], self._surplus))

    def finish(self) -> list[TokenLogprobs]:
        """Nothing more is shown: the reports of a token that is shown in part, and of those without any text."""
        reports = []
        for report, characters in self._waiting:
            if characters and not self._surplus:
                break
            reports.append(report)
            self._surplus = 0
        self._waiting.clear()
        return reports
