"""What an HTTP worker and an engine process say to each other over their Unix socket, in frames (core.frames).

A worker sends one command a frame; the engine sends one list of replies a step to each worker.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import msgspec

from dragoman.core.adapters import Adapter
from dragoman.core.errors import DragomanError, EngineFailed
from dragoman.core.errors_wire import decode_error, encode_error
from dragoman.core.events import Event
from dragoman.core.frames import FrameTooLong, encode_frame, read_frame
from dragoman.core.request import AnswerFormat, SamplingParams, TextPrompt, TokenPrompt, ToolOptions
from dragoman.engines.base import EngineStatistics
from dragoman.engines.llama.wire.adapter_registry import AdapterRecord
from dragoman.prompt.output_parser import OutputParserSpec

Decoded = TypeVar("Decoded")

_MAX_FRAME_BYTES = 256 * 2**20


class GenerateCommand(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="submit"):
    """Generate; the replies carry `number`, which the worker chose."""

    number: int
    prompt: TextPrompt | TokenPrompt
    sampling: SamplingParams
    n: int
    echo: bool
    priority: int
    logprobs: int | None = None
    answer_format: AnswerFormat | None = None
    tools: ToolOptions | None = None
    output_format: OutputParserSpec = OutputParserSpec()
    adapter: str | None = None
    """By its own name; None: the model alone."""
    resume_token_ids: tuple[tuple[int, ...], ...] = ()
    """As in GenerationRequest."""


class CancelCommand(msgspec.Struct, frozen=True, array_like=True, tag="cancel"):
    """Stop the request `number` before the next step; no reply."""

    number: int


class CountTokensCommand(msgspec.Struct, frozen=True, array_like=True, tag="count"):
    """Answered by Counted, or by a refusal."""

    number: int
    prompt: TextPrompt | TokenPrompt


class StatisticsCommand(msgspec.Struct, frozen=True, array_like=True, tag="statistics"):
    """Answered by Statistics."""

    number: int


class AddAdapterCommand(msgspec.Struct, frozen=True, array_like=True, tag="add_adapter"):
    """Serve an adapter from now on. Answered by AdapterReply, or by a refusal."""

    number: int
    record: AdapterRecord


class RemoveAdapterCommand(msgspec.Struct, frozen=True, array_like=True, tag="remove_adapter"):
    """Serve an adapter no longer. Answered by AdapterReply, or by a refusal."""

    number: int
    name: str


EngineCommand = (
    GenerateCommand | CancelCommand | CountTokensCommand | StatisticsCommand | AddAdapterCommand | RemoveAdapterCommand
)


class Handshake(msgspec.Struct, frozen=True, array_like=True, tag="welcome"):
    """The engine's first reply on every connection: what it serves."""

    context_length: int
    chat_template: str | None
    bos_text: str
    eos_text: str


class FingerprintReply(msgspec.Struct, frozen=True, array_like=True, tag="identified"):
    """After Welcome, at once or as soon as it is known: a large file is being read meanwhile."""

    fingerprint: str


class EventReply(msgspec.Struct, frozen=True, array_like=True, tag="output"):
    """The next event of a request."""

    number: int
    event: Event


class ErrorReply(msgspec.Struct, frozen=True, array_like=True, tag="error"):
    """The request failed; others go on."""

    number: int
    payload: bytes
    """Of core.errors_wire."""

    def error(self) -> DragomanError:
        """The error that `error_reply` was given. Raises EngineFailed on a payload that is none."""
        return _decode(decode_error, self.payload)


class StatisticsReply(msgspec.Struct, frozen=True, array_like=True, tag="statistics"):
    """The answer to StatisticsCommand."""

    number: int
    values: EngineStatistics


class TokenCountReply(msgspec.Struct, frozen=True, array_like=True, tag="counted"):
    """The answer to CountTokensCommand."""

    number: int
    tokens: int


class AdapterReply(msgspec.Struct, frozen=True, array_like=True, tag="adapter"):
    """The answer to AddAdapterCommand and RemoveAdapterCommand: the adapter as it is, or was, served."""

    number: int
    adapter: Adapter


EngineReply = Handshake | FingerprintReply | EventReply | StatisticsReply | TokenCountReply | AdapterReply | ErrorReply

_encoder = msgspec.msgpack.Encoder()
_command_decoder: msgspec.msgpack.Decoder[EngineCommand] = msgspec.msgpack.Decoder(EngineCommand)
_replies_decoder: msgspec.msgpack.Decoder[list[EngineReply]] = msgspec.msgpack.Decoder(list[EngineReply])


def error_reply(number: int, error: DragomanError) -> ErrorReply:
    """The reply that makes the worker raise `error`."""
    return ErrorReply(number, encode_error(error))


def encode(content: EngineCommand | list[EngineReply]) -> bytes:
    """One frame."""
    return encode_frame(_encoder.encode(content))


async def read_command(reader: asyncio.StreamReader) -> EngineCommand | None:
    """The next command; None at the end of the connection. Raises EngineFailed on a frame that is none."""
    body = await _read_body(reader)
    return None if body is None else _decode(_command_decoder.decode, body)


async def read_replies(reader: asyncio.StreamReader) -> list[EngineReply] | None:
    """The next replies; None at the end of the connection. Raises EngineFailed on a frame that is none."""
    body = await _read_body(reader)
    return None if body is None else _decode(_replies_decoder.decode, body)


def _decode(decode: Callable[[bytes], Decoded], body: bytes) -> Decoded:
    try:
        return decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EngineFailed(f"a frame came over the engine's socket that is no message: {error}") from error


async def _read_body(reader: asyncio.StreamReader) -> bytes | None:
    try:
        return await read_frame(reader, _MAX_FRAME_BYTES)
    except FrameTooLong as error:
        raise EngineFailed(f"{error} came over the engine's socket") from error
