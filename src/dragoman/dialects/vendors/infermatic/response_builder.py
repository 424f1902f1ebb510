"""Builds this dialect's responses. In a stream absent members are left out, and the role is in the first delta."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec

from dragoman.core.events import FinishReason, TokenLogprobs, ToolCallDelta, Usage
from dragoman.dialects.http.response_builder import ChoiceState
from dragoman.dialects.openai.logprobs import TextOffsets, chat_token_logprobs, text_logprobs
from dragoman.dialects.openai.response_builder import (
    OpenAIResponseBuilder,
    ResponseHead,
    completion_usage,
    tool_call_bodies,
    tool_call_delta_bodies,
)
from dragoman.dialects.openai.wire import ChatLogprobs, CompletionUsage
from dragoman.dialects.vendors.infermatic import wire

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


class ChatResponseBuilder(OpenAIResponseBuilder):
    """Builds chat completions. The finish reason is sent with an empty delta."""

    shows_reasoning = True

    def __init__(self, head: ResponseHead) -> None:
        super().__init__(head)
        self._pending_roles: set[int] = set()

    def opening_chunks(self, index: int) -> Iterable[bytes]:
        self._pending_roles.add(index)
        return ()

    def text_chunk(self, index: int, text: str, logprobs: Sequence[TokenLogprobs]) -> bytes:
        encoded_logprobs = ChatLogprobs(chat_token_logprobs(logprobs)) if logprobs else None
        delta = wire.ChatDelta(content=text, role=self._role(index))
        return self._chunk([wire.ChatChunkChoice(index=index, delta=delta, logprobs=encoded_logprobs)])

    def reasoning_chunk(self, index: int, text: str) -> bytes:
        delta = wire.ChatDelta(reasoning_content=text, role=self._role(index))
        return self._chunk([wire.ChatChunkChoice(index=index, delta=delta)])

    def tool_call_chunks(self, tool_call_delta: ToolCallDelta) -> Iterable[bytes]:
        for part in tool_call_delta_bodies(tool_call_delta):
            delta = wire.ChatDelta(tool_calls=[part], role=self._role(tool_call_delta.index))
            yield self._chunk([wire.ChatChunkChoice(index=tool_call_delta.index, delta=delta)])

    def finish_chunks(self, index: int, reason: FinishReason) -> Iterable[bytes]:
        return [self._chunk([wire.ChatChunkChoice(index=index, delta=wire.ChatDelta(), finish_reason=reason)])]

    def usage_chunk(self, usage: CompletionUsage) -> bytes:
        return self._chunk([], usage)

    def document(self, usage: Usage) -> bytes:
        head = self._head
        choices = [self._choice(choice) for choice in self.choices()]
        return _encode(
            wire.ChatCompletion(
                id=head.id,
                object="chat.completion",
                created=head.created,
                model=head.model,
                choices=choices,
                usage=completion_usage(usage),
            )
        )

    def _role(self, index: int) -> str | None:
        if index not in self._pending_roles:
            return None
        self._pending_roles.remove(index)
        return "assistant"

    def _choice(self, choice: ChoiceState) -> wire.ChatChoice:
        message = wire.AssistantMessage(
            content=choice.content,
            tool_calls=tool_call_bodies(choice.tool_calls) or None,
            reasoning_content=choice.reasoning or msgspec.UNSET,
        )
        encoded_logprobs = (
            ChatLogprobs(chat_token_logprobs(choice.logprobs)) if self._head.has_logprobs else msgspec.UNSET
        )
        return wire.ChatChoice(choice.finish_reason, choice.index, message, encoded_logprobs)

    def _chunk(self, choices: list[wire.ChatChunkChoice], usage: CompletionUsage | None = None) -> bytes:
        head = self._head
        return _encode(
            wire.ChatChunk(
                id=head.id,
                object="chat.completion.chunk",
                created=head.created,
                model=head.model,
                choices=choices,
                usage=usage,
            )
        )


class TextResponseBuilder(OpenAIResponseBuilder):
    """Builds text completions."""

    def __init__(self, head: ResponseHead) -> None:
        super().__init__(head)
        self._offsets: defaultdict[int, TextOffsets] = defaultdict(TextOffsets)

    def text_chunk(self, index: int, text: str, logprobs: Sequence[TokenLogprobs]) -> bytes:
        encoded_logprobs = text_logprobs(logprobs, self._offsets[index]) if logprobs else None
        return self._chunk([wire.TextChunkChoice(index=index, text=text, logprobs=encoded_logprobs)])

    def finish_chunks(self, index: int, reason: FinishReason) -> Iterable[bytes]:
        return [self._chunk([wire.TextChunkChoice(index=index, text="", finish_reason=reason)])]

    def usage_chunk(self, usage: CompletionUsage) -> bytes:
        return self._chunk([], usage)

    def document(self, usage: Usage) -> bytes:
        head = self._head
        choices = [self._choice(choice) for choice in self.choices()]
        return _encode(
            wire.TextCompletion(
                id=head.id,
                object="text_completion",
                created=head.created,
                model=head.model,
                choices=choices,
                usage=completion_usage(usage),
            )
        )

    def _choice(self, choice: ChoiceState) -> wire.TextChoice:
        encoded_logprobs = text_logprobs(choice.logprobs, TextOffsets()) if self._head.has_logprobs else None
        return wire.TextChoice(choice.finish_reason, choice.index, choice.text, encoded_logprobs)

    def _chunk(self, choices: list[wire.TextChunkChoice], usage: CompletionUsage | None = None) -> bytes:
        head = self._head
        return _encode(
            wire.TextChunk(
                id=head.id,
                object="text_completion",
                created=head.created,
                model=head.model,
                choices=choices,
                usage=usage,
            )
        )
