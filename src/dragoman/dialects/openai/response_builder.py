"""Builds responses in OpenAI's shape, for the dialects that differ from it in a few members only."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
from msgspec import UNSET, UnsetType

from dragoman.core.events import FinishReason, TokenLogprobs, ToolCallDelta, Usage
from dragoman.core.models import ServedModel
from dragoman.dialects.http.codec import DecodeContext
from dragoman.dialects.http.response_builder import BaseResponseBuilder, ChoiceState, ToolCallState
from dragoman.dialects.openai.logprobs import ChatLogprobs, TextOffsets, chat_token_logprobs, text_logprobs
from dragoman.dialects.openai.wire import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    CompletionTokensDetails,
    CompletionUsage,
    FunctionCall,
    FunctionCallDeltaBody,
    PromptTokensDetails,
    StreamOptions,
    TextChoice,
    TextChunk,
    TextChunkChoice,
    TextCompletion,
    ToolCallBody,
    ToolCallDeltaBody,
)

_FINGERPRINT = "fingerprint"

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


class ResponseHead(msgspec.Struct, frozen=True, kw_only=True):
    """The members that all documents of one answer share. UNSET ones are left out."""

    id: str
    created: int
    model: str
    include_usage: bool
    """Whether a stream ends with its usage."""
    has_logprobs: bool = False
    """Whether log-probabilities were asked for."""
    absent_logprobs: UnsetType | None = UNSET
    """The value of `logprobs` in a chunk of a chat where there are none."""
    system_fingerprint: str | UnsetType = UNSET

    @property
    def stored_arguments(self) -> dict[str, str]:
        """The arguments that restore the fingerprint when the body is decoded again."""
        return {_FINGERPRINT: self.system_fingerprint} if isinstance(self.system_fingerprint, str) else {}


def response_head(
    context: DecodeContext,
    kind: str,
    model: str,
    options: StreamOptions | None,
    *,
    logprobs: bool = False,
    absent_logprobs: UnsetType | None = UNSET,
    fingerprint: str | None = None,
) -> ResponseHead:
    """Return the head of an answer whose id begins with `kind`. `fingerprint` is None if it is not known."""
    return ResponseHead(
        id=f"{kind}-{context.answer_id}",
        created=context.created,
        model=model,
        include_usage=options is not None and bool(options.include_usage),
        has_logprobs=logprobs,
        absent_logprobs=absent_logprobs,
        system_fingerprint=UNSET if fingerprint is None else fingerprint,
    )


def fingerprint_of(served: ServedModel | None, context: DecodeContext) -> str | None:
    """Return the model's fingerprint at the time of the request; None if it was not known."""
    if context.find_model is None:
        return context.arguments.get(_FINGERPRINT)
    return None if served is None else served.fingerprint


class OpenAIResponseBuilder(BaseResponseBuilder):
    """Builds an answer whose documents share a head, and whose stream ends with the usage on request."""

    def __init__(self, head: ResponseHead) -> None:
        super().__init__()
        self._head = head

    def usage_chunks(self, usage: Usage) -> Iterable[bytes]:
        return [self.usage_chunk(completion_usage(usage))] if self._head.include_usage else ()

    def usage_chunk(self, usage: CompletionUsage) -> bytes:
        """Return the chunk without choices that ends such a stream."""
        raise NotImplementedError


class OpenAIChatResponseBuilder(OpenAIResponseBuilder):
    """Builds a chat completion. The role is sent in a chunk of its own before a choice's first content."""

    def opening_chunks(self, index: int) -> Iterable[bytes]:
        return [self._chunk(index, ChatDelta(role="assistant", content=""))]

    def text_chunk(self, index: int, text: str, logprobs: Sequence[TokenLogprobs]) -> bytes:
        return self._chunk(index, ChatDelta(content=text), logprobs=logprobs)

    def reasoning_chunk(self, index: int, text: str) -> bytes:
        return self._chunk(index, ChatDelta(reasoning=text))

    def tool_call_chunks(self, tool_call_delta: ToolCallDelta) -> Iterable[bytes]:
        return [
            self._chunk(tool_call_delta.index, ChatDelta(tool_calls=[part]))
            for part in tool_call_delta_bodies(tool_call_delta)
        ]

    def finish_chunks(self, index: int, reason: FinishReason) -> Iterable[bytes]:
        return [self._chunk(index, ChatDelta(), reason)]

    def usage_chunk(self, usage: CompletionUsage) -> bytes:
        return self._document([], usage)

    def document(self, usage: Usage) -> bytes:
        head = self._head
        return _encode(
            ChatCompletion(
                id=head.id,
                object="chat.completion",
                created=head.created,
                model=head.model,
                choices=[self._choice(choice) for choice in self.choices()],
                usage=completion_usage(usage),
                system_fingerprint=head.system_fingerprint,
            )
        )

    def _choice(self, choice: ChoiceState) -> ChatChoice:
        message = AssistantMessage(
            reasoning=choice.reasoning or UNSET,
            content=choice.content,
            tool_calls=tool_call_bodies(choice.tool_calls) or UNSET,
        )
        logprobs = ChatLogprobs(chat_token_logprobs(choice.logprobs)) if self._head.has_logprobs else None
        return ChatChoice(choice.index, message, choice.finish_reason, logprobs)

    def _chunk(
        self, index: int, delta: ChatDelta, reason: str | None = None, logprobs: Sequence[TokenLogprobs] = ()
    ) -> bytes:
        encoded_logprobs = ChatLogprobs(chat_token_logprobs(logprobs)) if logprobs else self._head.absent_logprobs
        return self._document([ChatChunkChoice(index, delta, reason, encoded_logprobs)])

    def _document(self, choices: list[ChatChunkChoice], usage: CompletionUsage | UnsetType = UNSET) -> bytes:
        head = self._head
        return _encode(
            ChatChunk(
                id=head.id,
                object="chat.completion.chunk",
                created=head.created,
                model=head.model,
                choices=choices,
                usage=usage,
                system_fingerprint=head.system_fingerprint,
            )
        )


class OpenAITextResponseBuilder(OpenAIResponseBuilder):
    """Builds a text completion."""

    def __init__(self, head: ResponseHead) -> None:
        super().__init__(head)
        self._offsets: defaultdict[int, TextOffsets] = defaultdict(TextOffsets)

    def text_chunk(self, index: int, text: str, logprobs: Sequence[TokenLogprobs]) -> bytes:
        encoded_logprobs = text_logprobs(logprobs, self._offsets[index]) if logprobs else None
        return self._document([TextChunkChoice(index, text, encoded_logprobs)])

    def finish_chunks(self, index: int, reason: FinishReason) -> Iterable[bytes]:
        return [self._document([TextChunkChoice(index, "", finish_reason=reason)])]

    def usage_chunk(self, usage: CompletionUsage) -> bytes:
        return self._document([], usage)

    def document(self, usage: Usage) -> bytes:
        head = self._head
        return _encode(
            TextCompletion(
                id=head.id,
                object="text_completion",
                created=head.created,
                model=head.model,
                choices=[self._choice(choice) for choice in self.choices()],
                usage=completion_usage(usage),
            )
        )

    def _choice(self, choice: ChoiceState) -> TextChoice:
        encoded_logprobs = text_logprobs(choice.logprobs, TextOffsets()) if self._head.has_logprobs else None
        return TextChoice(choice.index, choice.text, encoded_logprobs, choice.finish_reason)

    def _document(self, choices: list[TextChunkChoice], usage: CompletionUsage | UnsetType = UNSET) -> bytes:
        head = self._head
        return _encode(
            TextChunk(
                id=head.id,
                object="text_completion",
                created=head.created,
                model=head.model,
                choices=choices,
                usage=usage,
            )
        )


def completion_usage(usage: Usage) -> CompletionUsage:
    """Convert the usage."""
    details = CompletionTokensDetails(usage.reasoning_tokens) if usage.reasoning_tokens else UNSET
    return CompletionUsage(
        completion_tokens=usage.completion_tokens,
        prompt_tokens=usage.prompt_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=PromptTokensDetails(usage.cached_tokens),
        completion_tokens_details=details,
    )


def tool_call_bodies(calls: Iterable[ToolCallState]) -> list[ToolCallBody]:
    """Convert complete tool calls."""
    return [ToolCallBody(call.id, "function", FunctionCall(call.name, call.arguments)) for call in calls]


def tool_call_delta_bodies(delta: ToolCallDelta) -> Iterator[ToolCallDeltaBody]:
    """Convert a part of a tool call. The name is sent before, and apart from, all arguments."""
    if delta.name is not None:
        named = FunctionCallDeltaBody(name=delta.name, arguments="")
        yield ToolCallDeltaBody(index=delta.call_index, id=delta.id or UNSET, type="function", function=named)
    if delta.arguments:
        yield ToolCallDeltaBody(index=delta.call_index, function=FunctionCallDeltaBody(arguments=delta.arguments))
