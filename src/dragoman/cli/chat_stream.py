"""Parsing of a streamed chat completion: bytes to lines, to server-sent events, to pieces of text."""

from collections.abc import Iterable, Iterator

import msgspec

END_OF_STREAM = "[DONE]"


class AnswerInterrupted(Exception):
    """The answer ended before it was complete. The message is one line for people."""


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _ErrorDetail(msgspec.Struct):
    message: str


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    error: _ErrorDetail | None = None


_decoder = msgspec.json.Decoder(_Chunk)


def iter_texts(chunks: Iterable[bytes]) -> Iterator[str]:
    """Yield the pieces of text of a streamed chat completion.

    Raises AnswerInterrupted if the body contains an error, is not such a stream, or ends without its terminator.
    """
    for data in iter_events(iter_lines(chunks)):
        if data == END_OF_STREAM:
            return
        try:
            chunk = _decoder.decode(data)
        except msgspec.DecodeError as error:
            raise AnswerInterrupted(f"the server sent no chat completion: {error}") from error
        if chunk.error is not None:
            raise AnswerInterrupted(f"the server broke the answer off: {chunk.error.message}")
        for choice in chunk.choices:
            if choice.delta.content:
                yield choice.delta.content
    raise AnswerInterrupted("the answer was cut off: the stream ended without its end mark")


def iter_events(lines: Iterable[str]) -> Iterator[str]:
    """Yield the data of each server-sent event. Comments, other fields and an incomplete event are dropped."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []


def iter_lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Yield lines without their ends, independent of how the chunks are cut. An incomplete last line is dropped.

    Only LF and CRLF end a line. str.splitlines would also split at U+2028 and others, which JSON may contain.
    """
    rest = b""
    for chunk in chunks:
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            yield line.removesuffix(b"\r").decode(errors="replace")
