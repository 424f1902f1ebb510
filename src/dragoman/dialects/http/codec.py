"""Endpoint codecs: how an endpoint decodes its requests and renders their answers and errors, as data.

A codec needs the request's bytes only, so an answer can be rendered again at any time and in any process.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

from dragoman.core.embedding import EmbeddingRequest
from dragoman.core.errors import BadRequest, DragomanError, EngineFailed
from dragoman.core.events import Event
from dragoman.core.jobs import DEFAULT_PRIORITY, StoredRequest
from dragoman.core.models import ServedModel
from dragoman.core.request import GenerationRequest
from dragoman.dialects.http.sse import SseEvent


class ResponseBuilder(Protocol):
    """Builds JSON from events: one state machine for streams and for whole answers."""

    def note(self, event: Event) -> None:
        """Add the event to the answer. Enough for a whole answer, which needs no documents of a stream."""
        ...

    def feed(self, event: Event) -> Iterable[SseEvent]:
        """Add the event to the answer, and return what it adds to the stream."""
        ...

    def terminator(self) -> Iterable[SseEvent]:
        """Return the end of a complete stream, if the dialect has one."""
        ...

    def failure(self, error: SseEvent) -> Iterable[SseEvent]:
        """Return the end of a stream that has begun and failed with this error."""
        ...

    def keep_alive(self) -> SseEvent | None:
        """Return what a silent stream gets; None: a comment."""
        ...

    def build(self) -> bytes:
        """Return the whole answer as one JSON document, after the last event."""
        ...


class DecodedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded request."""

    requests: Sequence[GenerationRequest] = ()
    """What is generated, if it asks for text."""
    embedding: EmbeddingRequest | None = None
    """What is computed, if it asks for vectors or scores."""
    stream: bool
    builder: ResponseBuilder
    field_names: Mapping[str, str] = {}
    """The request's own names of parameters that the engine may reject, where they differ."""
    extra_arguments: Mapping[str, str] = {}
    """Further arguments for decoding the body again without the models: what the answer reports of them."""
    priority: int = DEFAULT_PRIORITY
    """Used if the request is queued."""
    headers: Mapping[str, str] = {}
    """Headers of an answer from the queue that the client waits for."""
    in_background: bool = False
    """Whether the body asks for the queue."""

    def in_client_terms(self, error: DragomanError) -> DragomanError:
        """Return the error with the field at fault under the name the client sent."""
        if isinstance(error, BadRequest) and error.parameter is not None:
            error.parameter = self.field_names.get(error.parameter, error.parameter)
        return error


class DecodeContext(NamedTuple):
    """What a body is decoded with, besides its bytes."""

    answer_id: str
    """32 hex digits."""
    created: int
    """The creation time in the answer, in Unix seconds."""
    arguments: Mapping[str, str] = {}
    """Parameters of the path, and `extra_arguments` of a restored request."""
    find_model: Callable[[str], ServedModel | None] | None = None
    """Finds a served model by name or alias; None for a restored request, which was admitted before, possibly by a
    version that refused less."""
    reasoning_key: bytes = b""
    """Encrypts reasoning that clients keep; empty: it is not encrypted."""
    stores_responses: bool = False
    """Whether responses can be stored."""
    fetches_images: bool = False
    """Whether images at http(s) addresses are taken."""


class ErrorResponse(NamedTuple):
    """An error in a dialect's own envelope."""

    status: int
    body: bytes
    headers: dict[str, str]


class ErrorRenderer(Protocol):
    """Renders errors as responses."""

    def render(self, error: DragomanError) -> ErrorResponse:
        """Return the response to a request that failed before the first byte."""
        ...


@runtime_checkable
class ErrorCodec(ErrorRenderer, Protocol):
    """Renders errors before the first byte and after it."""

    def render_event(self, error: DragomanError) -> SseEvent:
        """Return the event of an error after the first byte of a stream."""
        ...


class EndpointCodec(NamedTuple):
    """The codec of one kind of route."""

    name: str
    """The dialect's name, a dot and the route's. It is stored with jobs, so it never changes."""
    decode: Callable[[bytes, DecodeContext], DecodedRequest]
    """Raises BadRequest, and ModelNotFound if the context has models."""
    errors: ErrorCodec


class ReceivedRequest(NamedTuple):
    """A request and what it was decoded to."""

    codec: EndpointCodec
    context: DecodeContext
    body: bytes
    decoded: DecodedRequest

    def to_stored(self) -> StoredRequest:
        """Return what must be stored to render its answer later."""
        context, arguments = self.context, {**self.context.arguments, **self.decoded.extra_arguments}
        return StoredRequest(
            codec=self.codec.name,
            arguments=arguments,
            body=self.body,
            answer_id=context.answer_id,
            created_at=context.created,
        )


def restore_request(
    stored: StoredRequest, codecs: Mapping[str, EndpointCodec], reasoning_key: bytes = b""
) -> ReceivedRequest:
    """Decode a stored request again, with a response builder that has seen no event.

    Raises EngineFailed for a codec that only another version of the server has.
    """
    codec = codecs.get(stored.codec)
    if codec is None:
        raise EngineFailed(f"This version of the server cannot render an answer in the form '{stored.codec}'")
    context = DecodeContext(
        stored.answer_id, stored.created_at, stored.arguments, reasoning_key=reasoning_key, fetches_images=True
    )
    return ReceivedRequest(codec, context, stored.body, codec.decode(stored.body, context))
