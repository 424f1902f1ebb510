"""The state machine between events and an answer's JSON, streamed or not; a dialect fills in the documents."""

from collections.abc import Iterator

from dragoman.core.errors import EngineFailed
from dragoman.core.events import Delta, Event, Finished, Usage
from dragoman.dialects import sse


class Answer:
    """Texts and finish reasons by choice, and the usage at the end. Implements exchange.AnswerMachine."""

    def __init__(self) -> None:
        self._texts: dict[int, list[str]] = {}
        self._reasons: dict[int, str] = {}
        self._usage: Usage | None = None

    def feed(self, event: Event) -> Iterator[bytes]:
        """The chunks this event gives, as JSON."""
        match event:
            case Delta(index, text) if text:
                yield from self._open(index)
                self._texts[index].append(text)
                yield self.text_chunk(index, text)
            case Finished(index, reason):
                yield from self._open(index)
                self._reasons[index] = reason
                yield from self.finish_chunks(index, reason)
            case Usage():
                self._usage = event
                yield from self.usage_chunks(event)

    def terminator(self) -> bytes:
        """The frame after the last chunk."""
        return sse.DONE

    def collected(self) -> bytes:
        """All chunks as one document. Raises EngineFailed when the engine broke off without an error."""
        if self._usage is None:
            raise EngineFailed("The engine ended its answer without telling its usage")
        return self.document(self._usage)

    def choices(self) -> Iterator[tuple[int, str, str]]:
        """Index, text and finish reason of every choice, in order."""
        for index, parts in sorted(self._texts.items()):
            yield index, "".join(parts), self._reasons[index]

    def is_first(self, index: int) -> bool:
        """Whether the text under way is the first one of its choice."""
        return len(self._texts[index]) == 1

    def _open(self, index: int) -> Iterator[bytes]:
        if index not in self._texts:
            self._texts[index] = []
            yield from self.opening_chunks(index)

    def opening_chunks(self, _index: int) -> Iterator[bytes]:
        """What comes before a choice's first text or end; nothing unless the dialect has something."""
        yield from ()

    def text_chunk(self, index: int, text: str) -> bytes:
        """The chunk for new text of a choice."""
        raise NotImplementedError

    def finish_chunks(self, index: int, reason: str) -> Iterator[bytes]:
        """What ends a choice."""
        raise NotImplementedError

    def usage_chunks(self, usage: Usage) -> Iterator[bytes]:
        """What ends the answer; nothing where it was not asked for."""
        raise NotImplementedError

    def document(self, usage: Usage) -> bytes:
        """The whole answer, not streamed."""
        raise NotImplementedError
