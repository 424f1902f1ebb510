"""A dialect's ways of answering, as data: from bytes to a Call, and from events to JSON by the Call's machine.

A form needs nothing but what was sent, so an answer can be told at any later time, in any process, and is the same.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from dragoman.core.errors import BadRequest, DragomanError, EngineFailed
from dragoman.core.events import Event
from dragoman.core.jobs import DEFAULT_PRIORITY, StoredRequest
from dragoman.core.request import GenerationRequest
from dragoman.core.service import ServedModel


class ResponseBuilder(Protocol):
    """Events in, JSON out: one state machine for both ways of answering."""

    def feed(self, event: Event) -> Iterable[bytes]:
        """The JSON documents of the stream that this event gives."""
        ...

    def terminator(self) -> bytes:
        """The last frame of a complete stream, framing included; empty where the dialect has none."""
        ...

    def build(self) -> bytes:
        """The whole answer as one JSON document, after the last event."""
        ...


class DecodedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded request."""

    requests: list[GenerationRequest]
    stream: bool
    builder: ResponseBuilder
    field_names: Mapping[str, str] = {}
    """What this request calls the parameters that the engine may refuse, where its words are others."""
    extra_arguments: Mapping[str, str] = {}
    """What its answer tells of the models: further arguments, for decoding the body again without them."""
    priority: int = DEFAULT_PRIORITY
    """In the queue, should it be put there."""
    headers: Mapping[str, str] = {}
    """Of an answer that was waited for in the queue."""

    def in_client_terms(self, error: DragomanError) -> DragomanError:
        """The error, with the field at fault under the name it was sent by."""
        if isinstance(error, BadRequest) and error.parameter is not None:
            error.parameter = self.field_names.get(error.parameter, error.parameter)
        return error


class DecodeContext(NamedTuple):
    """What a body is decoded with."""

    answer_id: str
    """32 hex digits."""
    created: int
    """When the answer says it was made, in Unix seconds."""
    arguments: Mapping[str, str] = {}
    """What the path said besides, and what was learnt when the request came in."""
    models: Callable[[], Sequence[ServedModel]] | None = None
    """Those served; None: the request was let in before, and its answer is to be told again."""


class ErrorResponse(NamedTuple):
    """An error in a dialect's own envelope."""

    status: int
    body: bytes
    headers: dict[str, str]


class ErrorRenderer(Protocol):
    """How errors are told before the first byte."""

    def render(self, error: DragomanError) -> ErrorResponse:
        """The response to a request that failed before it."""
        ...


class ErrorCodec(ErrorRenderer, Protocol):
    """How a dialect tells of errors, before the first byte and after it."""

    def render_frame(self, error: DragomanError) -> bytes:
        """The frame that ends a stream that failed after it, framing included."""
        ...


class EndpointCodec(NamedTuple):
    """One way of answering: that of one kind of route."""

    name: str
    """That of the dialect, a dot and that of the route. Jobs are kept under it, so it stays as it is."""
    decode: Callable[[bytes, DecodeContext], DecodedRequest]
    """Raises BadRequest, and with `models` in the occasion ModelNotFound."""
    errors: ErrorCodec


class ReceivedRequest(NamedTuple):
    """A request as it was read."""

    codec: EndpointCodec
    context: DecodeContext
    body: bytes
    decoded: DecodedRequest

    def to_stored(self) -> StoredRequest:
        """What it takes to tell its answer later."""
        context, arguments = self.context, {**self.context.arguments, **self.decoded.extra_arguments}
        return StoredRequest(self.codec.name, arguments, self.body, context.answer_id, context.created)


def restore_request(stored: StoredRequest, codecs: Mapping[str, EndpointCodec]) -> ReceivedRequest:
    """The request whose answer is to be told, with a machine that was told nothing.

    Raises EngineFailed for a form that only another version of the server has.
    """
    codec = codecs.get(stored.name)
    if codec is None:
        raise EngineFailed(f"This version of the server cannot tell an answer in the form '{stored.name}'")
    context = DecodeContext(stored.answer_id, stored.created, stored.arguments)
    return ReceivedRequest(codec, context, stored.body, codec.decode(stored.body, context))
