"""Drops the oldest items of an input that is too long, if the request allows it."""

from collections.abc import Iterator

from dragoman.core.request import ChatPrompt, Message
from dragoman.dialects.http.truncation import TruncationPlan


class UnitTruncationPlan(TruncationPlan):
    """Drops whole turns, oldest first: a call goes with its results. System messages and the last turn stay."""

    def __init__(self, prompt: ChatPrompt) -> None:
        self._prompt = prompt
        units = list(_units(prompt.messages))[:-1]
        self._drop_order = [index for unit in units for index in unit]
        self.drop_counts = [0]
        for unit in units:
            self.drop_counts.append(self.drop_counts[-1] + len(unit))


def _units(messages: tuple[Message, ...]) -> Iterator[list[int]]:
    """Yield the indices of messages that belong together."""
    unit: list[int] = []
    for index, message in enumerate(messages):
        if message.role == "system":
            continue
        if message.role != "tool" and unit:
            yield unit
            unit = []
        unit.append(index)
    if unit:
        yield unit
