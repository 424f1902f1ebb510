"""The messages between an HTTP worker and an engine process, in frames (core.frames) on a Unix socket.

A worker sends one command in each frame. The engine sends each worker one list of replies for each step.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec

from dragoman.core.adapters import Adapter
from dragoman.core.embedding import EmbeddingInput
from dragoman.core.errors import DragomanError, EngineFailed
from dragoman.core.errors_wire import decode_error, encode_error
from dragoman.core.events import AnyDelta, Delta, Event
from dragoman.core.frames import FrameSender, FrameTooLong, encode_frame, read_frame
from dragoman.core.models import TokenizedPrompt
from dragoman.core.request import (
    AnswerFormat,
    PromptTruncation,
    SamplingParams,
    TextPrompt,
    TokenPrompt,
    ToolOptions,
)
from dragoman.engines.base import EngineStatistics
from dragoman.engines.llama.raw_image import RawImage
from dragoman.engines.llama.wire.adapter_registry import AdapterRecord
from dragoman.output.markup import ToolFormatName
from dragoman.prompt.control_tokens import SpecialTokenTexts
from dragoman.prompt.output_parser import OutputParserSpec

Decoded = TypeVar("Decoded")

_MAX_FRAME_BYTES = 256 * 2**20

_MAX_HELD_SECONDS = 0.05
"""How long tokens wait for others if their client gets the answer as a whole."""


class RenderedTextPrompt(msgspec.Struct, frozen=True, tag="rendered"):
    """A rendered conversation, in which people wrote the text of a control token."""

    text: str
    literal_offsets: tuple[int, ...]
    """As in prompt.template.RenderedPrompt."""
    truncation: PromptTruncation | None = None


class PlacedImage(msgspec.Struct, frozen=True, array_like=True):
    """An image of a conversation."""

    offset: int
    """The number of characters of the rendered text before it."""
    image: RawImage


class ImagePrompt(msgspec.Struct, frozen=True, tag="images", weakref=True):
    """A rendered conversation with images, at least one."""

    text: str
    literal_offsets: tuple[int, ...]
    """As in prompt.template.RenderedPrompt."""
    images: tuple[PlacedImage, ...]
    """In the order of the text."""


EnginePrompt = TextPrompt | TokenPrompt | RenderedTextPrompt | ImagePrompt


def rendered_prompt(
    text: str, literal_offsets: tuple[int, ...], truncation: PromptTruncation | None
) -> TextPrompt | RenderedTextPrompt:
    """Return a rendered conversation as a prompt."""
    if literal_offsets:
        return RenderedTextPrompt(text, literal_offsets, truncation)
    return TextPrompt(text, truncation)


class GenerateCommand(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="submit"):
    """Generate an answer. The replies have the same `number`, which the worker chose."""

    number: int
    prompt: EnginePrompt
    sampling: SamplingParams
    n: int
    echo: bool
    priority: int
    logprobs: int | None = None
    response_format: AnswerFormat | None = None
    tools: ToolOptions | None = None
    output_format: OutputParserSpec = OutputParserSpec()
    adapter: str | None = None
    """Its qualified name. None stands for the model alone."""
    resume_token_ids: tuple[tuple[int, ...], ...] = ()
    """As in GenerationRequest."""
    owner: str = ""
    """As in GenerationRequest."""
    cache_salt: str = ""
    """As in GenerationRequest."""
    prompt_logprobs: int | None = None
    reports_prompt: bool = False
    is_buffered: bool = False
    """As in GenerationRequest."""


class EmbedCommand(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="embed"):
    """Compute vectors or scores. The replies are events in any order of the inputs, and Usage in the end."""

    number: int
    inputs: tuple[EmbeddingInput, ...]
    parameter: str
    """As in EmbeddingRequest, like all fields below."""
    dimensions: int | None
    activation: bool
    priority: int
    owner: str


RequestCommand = GenerateCommand | EmbedCommand


class CountInputTokensCommand(msgspec.Struct, frozen=True, array_like=True, tag="count_inputs"):
    """Count the tokens of all inputs together. The reply is a TokenCountReply or an ErrorReply."""

    number: int
    inputs: tuple[EmbeddingInput, ...]
    parameter: str


class CancelCommand(msgspec.Struct, frozen=True, array_like=True, tag="cancel"):
    """Drop the request `number` before the next step. There is no reply."""

    number: int


class CountTokensCommand(msgspec.Struct, frozen=True, array_like=True, tag="count"):
    """Count tokens. The reply is a TokenCountReply or an ErrorReply."""

    number: int
    prompt: EnginePrompt


class TokenizeCommand(msgspec.Struct, frozen=True, array_like=True, tag="tokenize"):
    """Tokenize a prompt. The reply is a TokenizedPromptReply or an ErrorReply."""

    number: int
    prompt: EnginePrompt


class DetokenizeCommand(msgspec.Struct, frozen=True, array_like=True, tag="detokenize"):
    """Return the text of tokens. The reply is a TextReply or an ErrorReply."""

    number: int
    token_ids: tuple[int, ...]


TokenizingCommand = CountTokensCommand | CountInputTokensCommand | TokenizeCommand | DetokenizeCommand


class StatisticsCommand(msgspec.Struct, frozen=True, array_like=True, tag="statistics"):
    """Report statistics. The reply is a StatisticsReply."""

    number: int


class AddAdapterCommand(msgspec.Struct, frozen=True, array_like=True, tag="add_adapter"):
    """Start to serve an adapter. The reply is an AdapterReply or an ErrorReply."""

    number: int
    record: AdapterRecord


class RemoveAdapterCommand(msgspec.Struct, frozen=True, array_like=True, tag="remove_adapter"):
    """Stop serving an adapter. The reply is an AdapterReply or an ErrorReply."""

    number: int
    name: str
    """Its qualified name."""


EngineCommand = (
    RequestCommand | CancelCommand | TokenizingCommand | StatisticsCommand | AddAdapterCommand | RemoveAdapterCommand
)


class Handshake(msgspec.Struct, frozen=True, array_like=True, tag="welcome"):
    """The first reply on every connection: the facts about the model."""

    context_length: int
    chat_template: str | None
    bos_text: str
    eos_text: str
    special_texts: SpecialTokenTexts = SpecialTokenTexts()
    tool_format: ToolFormatName | None = None
    """None: the chat template shows it."""
    embedding_dimensions: int | None = None
    """As in Embeds."""


class FingerprintReply(msgspec.Struct, frozen=True, array_like=True, tag="identified"):
    """Follows the handshake, or comes later when the digest of a large file is computed."""

    fingerprint: str


class EventReply(msgspec.Struct, frozen=True, array_like=True, tag="output"):
    """The next event of a request."""

    number: int
    event: Event


class ErrorReply(msgspec.Struct, frozen=True, array_like=True, tag="error"):
    """The error that ends a request."""

    number: int
    payload: bytes
    """Encoded by core.errors_wire."""

    def error(self) -> DragomanError:
        """Decode the error. Raises EngineFailed if the payload is invalid."""
        return _decode(decode_error, self.payload)


class StatisticsReply(msgspec.Struct, frozen=True, array_like=True, tag="statistics"):
    """The reply to StatisticsCommand."""

    number: int
    values: EngineStatistics


class TokenCountReply(msgspec.Struct, frozen=True, array_like=True, tag="counted"):
    """The reply to CountTokensCommand."""

    number: int
    tokens: int


class TokenizedPromptReply(msgspec.Struct, frozen=True, array_like=True, tag="tokenized"):
    """The reply to TokenizeCommand."""

    number: int
    tokens: TokenizedPrompt


class TextReply(msgspec.Struct, frozen=True, array_like=True, tag="detokenized"):
    """The reply to DetokenizeCommand."""

    number: int
    text: str


class AdapterReply(msgspec.Struct, frozen=True, array_like=True, tag="adapter"):
    """The reply to AddAdapterCommand and RemoveAdapterCommand: the adapter as it is, or was, served."""

    number: int
    adapter: Adapter


class HeartbeatReply(msgspec.Struct, frozen=True, array_like=True, tag="heartbeat"):
    """Sent to every worker once a second: the process can be asked, whatever it computes."""


EngineReply = (
    Handshake
    | FingerprintReply
    | EventReply
    | StatisticsReply
    | TokenCountReply
    | TokenizedPromptReply
    | TextReply
    | AdapterReply
    | HeartbeatReply
    | ErrorReply
)

_encoder = msgspec.msgpack.Encoder()
_command_decoder: msgspec.msgpack.Decoder[EngineCommand] = msgspec.msgpack.Decoder(EngineCommand)
_replies_decoder: msgspec.msgpack.Decoder[list[EngineReply]] = msgspec.msgpack.Decoder(list[EngineReply])


def error_reply(number: int, error: DragomanError) -> ErrorReply:
    """Make the reply that lets the worker raise `error`."""
    return ErrorReply(number, encode_error(error))


def event_reply(number: int, event: Event | DragomanError) -> EngineReply:
    """Make the reply with the next event of a request, or with the error that ends it."""
    return error_reply(number, event) if isinstance(event, DragomanError) else EventReply(number, event)


def encode(content: EngineCommand | list[EngineReply]) -> bytes:
    """Encode a command or a list of replies as one frame."""
    return encode_frame(_encoder.encode(content))


class ReplySender:
    """Sends the replies of an engine process to one worker."""

    def __init__(
        self, writer: asyncio.StreamWriter, max_unsent_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Made on the connection's event loop. `max_unsent_bytes`: as in FrameSender."""
        self._clock = clock
        self._sender = FrameSender(writer, max_unsent_bytes)
        self.buffered: set[int] = set()
        """The numbers of open requests whose tokens may wait for others."""
        self._held: list[EngineReply] = []
        self._held_until = 0.0

    def send(self, replies: list[EngineReply]) -> None:
        """Send replies from any thread. They go before those that wait."""
        self._sender.send(encode(replies))

    def publish(self, replies: list[EngineReply]) -> None:
        """Send what a step has computed. Called from one thread only.

        What nobody can see yet is sent together: each frame takes time from the next step. Where anything has waited,
        the text of a choice comes as one delta, so that a token's share of its time can be told.
        """
        self._held += replies
        now = self._clock()
        if now < self._held_until and all(map(self._may_wait, replies)):
            return
        self._held_until = now + _MAX_HELD_SECONDS
        held, self._held = self._held, []
        self.send(_joined(held, self.buffered) if len(held) > len(replies) else held)

    def close(self) -> None:
        """Close the connection as soon as what waits in its writer is sent. Called on the event loop."""
        self._sender.close()

    def abort(self) -> None:
        """Close the connection now. Called on the event loop."""
        self._sender.abort()

    def _may_wait(self, reply: EngineReply) -> bool:
        return type(reply) is EventReply and reply.number in self.buffered and isinstance(reply.event, AnyDelta)


def _joined(replies: list[EngineReply], buffered: set[int]) -> list[EngineReply]:
    """Return the replies, those to buffered requests with consecutive text of a choice in one delta."""
    joined: list[EngineReply] = []
    texts: dict[int, dict[int, list[Delta]]] = {}
    """The last deltas of each request and choice."""
    for reply in replies:
        if (
            type(reply) is EventReply
            and reply.number in buffered
            and type(reply.event) is Delta
            and reply.event.token_ids
        ):
            texts.setdefault(reply.number, {}).setdefault(reply.event.index, []).append(reply.event)
        else:
            if isinstance(reply, EventReply | ErrorReply):
                joined += _one_delta_each(reply.number, texts.pop(reply.number, {}))
            joined.append(reply)
    for number, of_request in texts.items():
        joined += _one_delta_each(number, of_request)
    return joined


def _one_delta_each(number: int, deltas_by_choice: dict[int, list[Delta]]) -> Iterator[EngineReply]:
    for index, deltas in deltas_by_choice.items():
        text = "".join(delta.text for delta in deltas)
        token_ids = [token for delta in deltas for token in delta.token_ids]
        yield EventReply(number, Delta(index, text, token_ids, [entry for delta in deltas for entry in delta.logprobs]))


async def read_command(reader: asyncio.StreamReader) -> EngineCommand | None:
    """Read the next command. None at the end of the connection. Raises EngineFailed on an invalid frame."""
    body = await _read_body(reader)
    return None if body is None else _decode(_command_decoder.decode, body)


async def read_replies(reader: asyncio.StreamReader) -> list[EngineReply] | None:
    """Read the next replies. None at the end of the connection. Raises EngineFailed on an invalid frame."""
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
