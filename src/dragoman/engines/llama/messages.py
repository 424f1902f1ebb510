"""What an HTTP worker and an engine process say to each other over their Unix socket, in frames (core.frames).

A worker sends one command a frame; the engine sends one list of replies a step to each worker.
"""

import asyncio
from typing import TypeVar

import msgspec

from dragoman.core.adapters import Adapter
from dragoman.core.errors import (
    BadRequest,
    ContextOverflow,
    DragomanError,
    EngineFailed,
    ModelNotFound,
    NameTaken,
    Overloaded,
)
from dragoman.core.events import Event
from dragoman.core.frames import FrameTooLong, frame, read_frame
from dragoman.core.request import AnswerFormat, SamplingParams, TextPrompt, TokenPrompt, ToolUse
from dragoman.engines.base import EngineStatistics
from dragoman.engines.llama.adapter_registry import AdapterRecord
from dragoman.prompt.reading import OutputParserSpec

Content = TypeVar("Content")

_MAX_FRAME_BYTES = 256 * 2**20


class Submit(msgspec.Struct, frozen=True, array_like=True, tag="submit"):
    """Generate; the replies carry `number`, which the worker chose."""

    number: int
    prompt: TextPrompt | TokenPrompt
    sampling: SamplingParams
    n: int
    echo: bool
    priority: int
    logprobs: int | None = None
    answer_format: AnswerFormat | None = None
    tools: ToolUse | None = None
    reading: OutputParserSpec = OutputParserSpec()
    adapter: str | None = None
    """By its own name; None: the model alone."""
    begun: tuple[tuple[int, ...], ...] = ()
    """As in GenerationRequest."""


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag="cancel"):
    """Stop the request `number` before the next step; no reply."""

    number: int


class CountTokens(msgspec.Struct, frozen=True, array_like=True, tag="count"):
    """Answered by Counted, or by a refusal."""

    number: int
    prompt: TextPrompt | TokenPrompt


class AskStatistics(msgspec.Struct, frozen=True, array_like=True, tag="statistics"):
    """Answered by Statistics."""

    number: int


class AddAdapter(msgspec.Struct, frozen=True, array_like=True, tag="add_adapter"):
    """Serve an adapter from now on. Answered by AdapterChanged, or by a refusal."""

    number: int
    record: AdapterRecord


class RemoveAdapter(msgspec.Struct, frozen=True, array_like=True, tag="remove_adapter"):
    """Serve an adapter no longer. Answered by AdapterChanged, or by a refusal."""

    number: int
    name: str


Command = Submit | Cancel | CountTokens | AskStatistics | AddAdapter | RemoveAdapter


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag="welcome"):
    """The engine's first reply on every connection: what it serves."""

    context_length: int
    chat_template: str | None
    bos_text: str
    eos_text: str


class Identified(msgspec.Struct, frozen=True, array_like=True, tag="identified"):
    """After Welcome, at once or as soon as it is known: a large file is being read meanwhile."""

    fingerprint: str


class Output(msgspec.Struct, frozen=True, array_like=True, tag="output"):
    """The next event of a request."""

    number: int
    event: Event


class Refused(msgspec.Struct, frozen=True, array_like=True, tag="bad_request"):
    """The request failed with BadRequest."""

    number: int
    message: str
    parameter: str | None

    def error(self) -> DragomanError:
        return BadRequest(self.message, self.parameter)


class RefusedOverflow(msgspec.Struct, frozen=True, array_like=True, tag="context_overflow"):
    """The request failed with ContextOverflow."""

    number: int
    prompt_tokens: int
    context_length: int
    remedy: str
    at_least: bool

    def error(self) -> DragomanError:
        return ContextOverflow(self.prompt_tokens, self.context_length, self.remedy, at_least=self.at_least)


class RefusedOverload(msgspec.Struct, frozen=True, array_like=True, tag="overloaded"):
    """The request failed with Overloaded."""

    number: int
    message: str
    retry_after: int

    def error(self) -> DragomanError:
        return Overloaded(self.message, self.retry_after)


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """The request failed with EngineFailed; others go on."""

    number: int
    message: str

    def error(self) -> DragomanError:
        return EngineFailed(self.message)


class Statistics(msgspec.Struct, frozen=True, array_like=True, tag="statistics"):
    """The answer to AskStatistics."""

    number: int
    values: EngineStatistics


class Counted(msgspec.Struct, frozen=True, array_like=True, tag="counted"):
    """The answer to CountTokens."""

    number: int
    tokens: int


class RefusedModel(msgspec.Struct, frozen=True, array_like=True, tag="model_not_found"):
    """The request failed with ModelNotFound: it is about an adapter that is not served."""

    number: int
    model: str

    def error(self) -> DragomanError:
        return ModelNotFound(self.model)


class RefusedName(msgspec.Struct, frozen=True, array_like=True, tag="name_taken"):
    """The request failed with NameTaken."""

    number: int
    name: str

    def error(self) -> DragomanError:
        return NameTaken(self.name)


class AdapterChanged(msgspec.Struct, frozen=True, array_like=True, tag="adapter"):
    """The answer to AddAdapter and RemoveAdapter: the adapter as it is, or was, served."""

    number: int
    adapter: Adapter


Refusal = Refused | RefusedOverflow | RefusedOverload | RefusedModel | RefusedName | Failed
Reply = Welcome | Identified | Output | Statistics | Counted | AdapterChanged | Refusal

_encoder = msgspec.msgpack.Encoder()
_command_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_replies_decoder: msgspec.msgpack.Decoder[list[Reply]] = msgspec.msgpack.Decoder(list[Reply])


def refusal(number: int, error: DragomanError) -> Refusal:
    """The reply that makes the worker raise `error`."""
    match error:
        case ContextOverflow():
            return RefusedOverflow(number, error.prompt_tokens, error.context_length, error.remedy, error.at_least)
        case NameTaken():
            return RefusedName(number, error.name)
        case ModelNotFound():
            return RefusedModel(number, error.model)
        case BadRequest():
            return Refused(number, error.message, error.parameter)
        case Overloaded():
            return RefusedOverload(number, error.message, error.retry_after)
        case EngineFailed():
            return Failed(number, error.message)
        case _:
            raise TypeError(f"an engine does not refuse a request with {type(error).__name__}") from error


def encode(content: Command | list[Reply]) -> bytes:
    """One frame."""
    return frame(_encoder.encode(content))


async def read_command(reader: asyncio.StreamReader) -> Command | None:
    """The next command; None at the end of the connection. Raises EngineFailed on a frame that is none."""
    body = await _read_body(reader)
    return None if body is None else _decode(_command_decoder, body)


async def read_replies(reader: asyncio.StreamReader) -> list[Reply] | None:
    """The next replies; None at the end of the connection. Raises EngineFailed on a frame that is none."""
    body = await _read_body(reader)
    return None if body is None else _decode(_replies_decoder, body)


def _decode(decoder: msgspec.msgpack.Decoder[Content], body: bytes) -> Content:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EngineFailed(f"a frame came over the engine's socket that is no message: {error}") from error


async def _read_body(reader: asyncio.StreamReader) -> bytes | None:
    try:
        return await read_frame(reader, _MAX_FRAME_BYTES)
    except FrameTooLong as error:
        raise EngineFailed(f"{error} came over the engine's socket") from error
