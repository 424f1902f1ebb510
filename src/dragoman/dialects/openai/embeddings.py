"""OpenAI's embeddings: request, response, and what vLLM added to both."""

from collections.abc import Callable, Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from dragoman.core.embedding import EmbeddingInput, EmbeddingRequest
from dragoman.core.errors import BadRequest, EngineFailed
from dragoman.core.events import Embedding, Event, Usage
from dragoman.core.jobs import DEFAULT_PRIORITY, LOWEST_PRIORITY
from dragoman.core.limits import MAX_INPUTS, MAX_TOKENS
from dragoman.core.request import PromptTruncation, TextPrompt
from dragoman.dialects.http.codec import DecodeContext, DecodedRequest
from dragoman.dialects.http.sse import SseEvent
from dragoman.dialects.http.validation import (
    InvalidFields,
    MissingField,
    UnsupportedField,
    UnsupportedFields,
    Violation,
    decode_body,
)
from dragoman.dialects.openai.parse import parse_prompts

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


class EmbeddingsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Texts, or token ids that are used as they are."""

    model: str | None = None
    """Required unless the path has it."""
    input: str | list[str | int | list[int]]
    """One text, several, the token ids of one, or those of several."""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    """Cut the vectors to this length, if the server's settings name it for the model."""
    user: str | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1)] | None = None
    """-1: as many as the model takes. None: a longer input is an error."""
    truncation_side: Literal["left", "right"] = "right"
    """Where tokens are dropped."""
    add_special_tokens: bool = True
    """Of texts."""
    use_activation: bool | None = None
    """Whether the vectors have length 1; None: they have."""
    normalize: bool | None = None
    """The older name of `use_activation`."""
    embed_dtype: Literal["float32", "float16"] = "float32"
    """Of base64."""
    endianness: Literal["native", "little"] = "native"
    """Of base64, which is always little-endian."""
    priority: Annotated[int, Meta(ge=0)] = DEFAULT_PRIORITY


class EmbeddingObject(msgspec.Struct, frozen=True):
    index: int
    """The position of its input."""
    embedding: list[float] | str
    """The vector; with `encoding_format: base64`, its floats, little-endian."""
    object: str = "embedding"


class PromptUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(msgspec.Struct, frozen=True):
    data: list[EmbeddingObject]
    model: str
    """As it was asked for."""
    usage: PromptUsage
    object: str = "list"


_BEGIN_INPUT = UnsupportedField("begin the input with the prefix that the model's card names")

_UNSUPPORTED = UnsupportedFields(
    {"messages": UnsupportedField("send texts as input"), "input_type": _BEGIN_INPUT, "prompt_name": _BEGIN_INPUT}
)
"""Fields that other services know, and that would change the vectors."""


def decode_embeddings(body: bytes, context: DecodeContext) -> DecodedRequest:
    """Decode a request. The model in the path precedes the one in the body. Raises BadRequest."""
    sent = decode_body(body, EmbeddingsRequest)
    if context.find_model is not None:  # A restored request may have been admitted by a version that refused less.
        _UNSUPPORTED.check(body)
    request = EmbeddingRequest(
        model=requested_model(sent.model, context),
        inputs=_inputs(sent),
        dimensions=None if sent.dimensions is None else min(sent.dimensions, MAX_TOKENS),
        activation=next((each for each in (sent.use_activation, sent.normalize) if each is not None), True),
        priority=priority(sent.priority),
    )
    builder = EmbeddingsBuilder(request.model, base64_type=_base64_type(sent))
    return DecodedRequest(embedding=request, stream=False, builder=builder, priority=request.priority)


def requested_model(model: str | None, context: DecodeContext) -> str:
    """Return the model of the path or else of the body. Raises InvalidFields if there is none."""
    found = context.arguments.get("model") or model
    if not found:
        raise InvalidFields([Violation(("model",), MissingField())])
    return found


def priority(sent: int) -> int:
    """Return a priority: numbers above the lowest count as it, and LiteLLM's 0 as none."""
    return min(sent, LOWEST_PRIORITY) or DEFAULT_PRIORITY


def truncation(
    tokens: int | None, side: Literal["left", "right"] = "right", answer_tokens: int = 0
) -> PromptTruncation | None:
    """Return how inputs are shortened that leave room for an answer. Raises BadRequest."""
    if tokens == 0:
        raise BadRequest("truncate_prompt_tokens must be -1 or at least 1, got 0", "truncate_prompt_tokens")
    if tokens is None:
        return None
    return PromptTruncation(None if tokens == -1 else min(tokens, MAX_TOKENS), min(answer_tokens, MAX_TOKENS), side)


def _inputs(sent: EmbeddingsRequest) -> tuple[EmbeddingInput, ...]:
    prompts = parse_prompts(
        sent.input, add_special_tokens=sent.add_special_tokens, parameter="input", max_prompts=MAX_INPUTS
    )
    for index, prompt in enumerate(prompts):
        if not (prompt.text if isinstance(prompt, TextPrompt) else prompt.token_ids):
            raise BadRequest(f"input[{index}] is empty" if len(prompts) > 1 else "input is empty", "input")
    shortened = truncation(sent.truncate_prompt_tokens, sent.truncation_side)
    return tuple(msgspec.structs.replace(prompt, truncation=shortened) for prompt in prompts)


def _base64_type(sent: EmbeddingsRequest) -> str | None:
    if sent.encoding_format == "float":
        return None
    return "<f4" if sent.embed_dtype == "float32" else "<f2"


class VectorBuilder:
    """Implements codec.ResponseBuilder for answers that come all at once."""

    def __init__(self) -> None:
        self.vectors: list[bytes] = []
        """Of the inputs, in their order."""
        self._usage: Usage | None = None

    def note(self, event: Event) -> None:
        if isinstance(event, Embedding):
            self.vectors.append(event.values)
        elif isinstance(event, Usage):
            self._usage = event

    def feed(self, event: Event) -> Iterable[SseEvent]:
        self.note(event)
        return ()

    def terminator(self) -> Iterable[SseEvent]:
        return (SseEvent(self.build()),)

    def failure(self, error: SseEvent) -> Iterable[SseEvent]:
        return (error,)

    def keep_alive(self) -> SseEvent | None:
        return None

    def build(self) -> bytes:
        """Return the whole answer. Raises EngineFailed if the engine stopped without an error."""
        if self._usage is None:
            raise EngineFailed("The engine ended its answer without telling its usage")
        tokens = self._usage.prompt_tokens
        return _encode(self.document(PromptUsage(tokens, tokens)))

    def document(self, usage: PromptUsage) -> object:
        """Return the whole answer as a wire struct."""
        raise NotImplementedError


class EmbeddingsBuilder(VectorBuilder):
    """Builds the response to a request for embeddings."""

    def __init__(self, model: str, *, base64_type: str | None) -> None:
        """`base64_type`: numpy's name of the type of the floats in base64. None: they are JSON numbers."""
        super().__init__()
        self._model = model
        self._base64_type = base64_type

    def document(self, usage: PromptUsage) -> EmbeddingsResponse:
        data = [EmbeddingObject(index, self._rendered(values)) for index, values in enumerate(self.vectors)]
        return EmbeddingsResponse(data, self._model, usage)

    def _rendered(self, values: bytes) -> list[float] | str:
        from dragoman.dialects.openai import vectors

        if self._base64_type is None:
            return vectors.json_numbers(values)
        return vectors.base64_text(values, self._base64_type)
