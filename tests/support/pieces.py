"""Reading answers whole and in pieces."""

from collections.abc import Iterable, Iterator, Sequence

from dragoman.prompt.pieces import AnswerReader, CallArguments, CallBegins, CallEnds, Content, Piece, Thought


def read(reader: AnswerReader, *texts: str) -> list[Piece]:
    """Everything a reader makes of an answer, with neighbouring text put together."""
    pieces = [piece for text in texts for piece in reader.feed(text)]
    return merged([*pieces, *reader.finish()])


def merged(pieces: Iterable[Piece]) -> list[Piece]:
    """The pieces as they are whatever the split was. Refuses pieces without text, which nobody should have to send."""
    result: list[Piece] = []
    for piece in pieces:
        match result[-1:], piece:
            case [Content(before)], Content(text):
                result[-1] = Content(before + text)
            case [Thought(before)], Thought(text):
                result[-1] = Thought(before + text)
            case [CallArguments(call, before)], CallArguments(_, text):
                result[-1] = CallArguments(call, before + text)
            case _:
                result.append(piece)
        assert not isinstance(piece, Content | Thought | CallArguments) or piece.text
    return result


def call(number: int, name: str, arguments: str) -> list[Piece]:
    """A complete call."""
    return [CallBegins(number, name), CallArguments(number, arguments), CallEnds(number)]


def splits(text: str) -> Iterator[Sequence[str]]:
    """The text in two and in three pieces, at every place, and in single characters."""
    yield list(text)
    for first in range(len(text) + 1):
        yield text[:first], text[first:]
        for second in range(first, len(text)):
            yield text[:first], text[first:second], text[second:]
