"""Answers in OpenAI's shape, as three of the dialects give them with small differences."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
from msgspec import UNSET, UnsetType

from dragoman.core.events import FinishReason, TokenLogprobs, ToolCallDelta, Usage
from dragoman.dialects.http.codec import DecodeContext
from dragoman.dialects.http.response_builder import BaseResponseBuilder, ChoiceState, ToolCallState
from dragoman.dialects.openai.logprobs import chat_token_logprobs
from dragoman.dialects.openai.wire import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
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

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


class ResponseHead(msgspec.Struct, frozen=True):
    """What all documents of one answer share. UNSET members are left out of them."""

    id: str
    created: int
    model: str
    include_usage: bool
    """Whether a stream ends with its usage."""
    has_logprobs: bool = False
    """Whether log-probabilities were asked for."""
    absent_logprobs: UnsetType | None = UNSET
    """What stands in their place where there are none, on the chat route."""
    system_fingerprint: str | UnsetType | None = UNSET


def response_head(
    context: DecodeContext, kind: str, model: str, options: StreamOptions | None, *, logprobs: bool = False
) -> ResponseHead:
    """The head of an answer whose id begins with `kind`."""
    answer_id = f"{kind}-{context.answer_id}"
    return ResponseHead(answer_id, context.created, model, bool(options and options.include_usage), logprobs)


class OpenAIResponseBuilder(BaseResponseBuilder):
    """An answer whose documents share a head, and whose stream tells the usage when it was asked to."""

    def __init__(self, head: ResponseHead) -> None:
        super().__init__()
        self._head = head

    def usage_chunks(self, usage: Usage) -> Iterable[bytes]:
        return [self.usage_chunk(completion_usage(usage))] if self._head.include_usage else ()

    def usage_chunk(self, usage: CompletionUsage) -> bytes:
        """The chunk without choices that ends such a stream."""
        raise NotImplementedError


class OpenAIChatResponseBuilder(OpenAIResponseBuilder):
    """A chat completion. The role comes in a chunk of its own before the first that a choice says."""

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
                head.id,
                "chat.completion",
                head.created,
                head.model,
                [self._choice(choice) for choice in self.choices()],
                completion_usage(usage),
                head.system_fingerprint,
            )
        )

    def _choice(self, choice: ChoiceState) -> ChatChoice:
        message = AssistantMessage(
            reasoning=choice.reasoning or UNSET,
            content=choice.content,
            tool_calls=tool_call_bodies(choice.tool_calls) or UNSET,
        )
        logprobs = (
            ChatLogprobs(chat_token_logprobs(choice.logprobs))
            if self._head.has_logprobs
            else self._head.absent_logprobs
        )
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
                head.id, "chat.completion.chunk", head.created, head.model, choices, usage, head.system_fingerprint
            )
        )


class OpenAITextResponseBuilder(OpenAIResponseBuilder):
    """A text completion without log-probabilities."""

    def text_chunk(self, index: int, text: str, _logprobs: Sequence[TokenLogprobs]) -> bytes:
        return self._document([TextChunkChoice(index, text)])

    def finish_chunks(self, index: int, reason: FinishReason) -> Iterable[bytes]:
        return [self._document([TextChunkChoice(index, "", finish_reason=reason)])]

    def usage_chunk(self, usage: CompletionUsage) -> bytes:
        return self._document([], usage)

    def document(self, usage: Usage) -> bytes:
        head = self._head
        choices = [TextChoice(choice.index, choice.text, None, choice.finish_reason) for choice in self.choices()]
        return _encode(
            TextCompletion(head.id, "text_completion", head.created, head.model, choices, completion_usage(usage))
        )

    def _document(self, choices: list[TextChunkChoice], usage: CompletionUsage | UnsetType = UNSET) -> bytes:
        head = self._head
        return _encode(TextChunk(head.id, "text_completion", head.created, head.model, choices, usage))


def completion_usage(usage: Usage) -> CompletionUsage:
    """Usage as clients read it."""
    return CompletionUsage(
        usage.completion_tokens,
        usage.prompt_tokens,
        usage.prompt_tokens + usage.completion_tokens,
        PromptTokensDetails(usage.cached_tokens),
        CompletionTokensDetails(usage.reasoning_tokens) if usage.reasoning_tokens else UNSET,
    )


def tool_call_bodies(calls: Iterable[ToolCallState]) -> list[ToolCallBody]:
    """Complete calls as clients read them."""
    return [ToolCallBody(call.id, "function", FunctionCall(call.name, call.arguments)) for call in calls]


def tool_call_delta_bodies(delta: ToolCallDelta) -> Iterator[ToolCallDeltaBody]:
    """A piece of a call as clients read it: the name comes before, and apart from, all arguments."""
    if delta.name is not None:
        named = FunctionCallDeltaBody(name=delta.name, arguments="")
        yield ToolCallDeltaBody(index=delta.call_index, id=delta.id or UNSET, type="function", function=named)
    if delta.arguments:
        yield ToolCallDeltaBody(index=delta.call_index, function=FunctionCallDeltaBody(arguments=delta.arguments))
