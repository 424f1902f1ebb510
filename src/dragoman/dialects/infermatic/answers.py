"""Events as this dialect's documents: in a stream what is absent is left out, and the role comes with what is first."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec

from dragoman.core.events import FinishReason, TokenLogprobs, ToolCallDelta, Usage
from dragoman.dialects.answer import ChoiceSoFar
from dragoman.dialects.infermatic import wire
from dragoman.dialects.openai_answer import Head, HeadedAnswer
from dragoman.dialects.openai_logprobs import ChatLogprobs, TextOffsets, text_logprobs, told_tokens
from dragoman.dialects.openai_shapes import UsageBody, usage_body
from dragoman.dialects.openai_tools import tool_call_bodies, tool_call_pieces

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


class ChatAnswer(HeadedAnswer):
    """Answers of the chat route. The reason comes with an empty delta."""

    shows_reasoning = True

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        self._unsaid_roles: set[int] = set()

    def opening_chunks(self, index: int) -> Iterable[bytes]:
        self._unsaid_roles.add(index)
        return ()

    def text_chunk(self, index: int, text: str, logprobs: Sequence[TokenLogprobs]) -> bytes:
        told = ChatLogprobs(told_tokens(logprobs)) if logprobs else None
        delta = wire.ChatDelta(content=text, role=self._role(index))
        return self._chunk([wire.ChatChunkChoice(index=index, delta=delta, logprobs=told)])

    def reasoning_chunk(self, index: int, text: str) -> bytes:
        delta = wire.ChatDelta(reasoning_content=text, role=self._role(index))
        return self._chunk([wire.ChatChunkChoice(index=index, delta=delta)])

    def call_chunks(self, piece: ToolCallDelta) -> Iterable[bytes]:
        for part in tool_call_pieces(piece):
            delta = wire.ChatDelta(tool_calls=[part], role=self._role(piece.index))
            yield self._chunk([wire.ChatChunkChoice(index=piece.index, delta=delta)])

    def finish_chunks(self, index: int, reason: FinishReason) -> Iterable[bytes]:
        return [self._chunk([wire.ChatChunkChoice(index=index, delta=wire.ChatDelta(), finish_reason=reason)])]

    def usage_chunk(self, usage: UsageBody) -> bytes:
        return self._chunk([], usage)

    def document(self, usage: Usage) -> bytes:
        head = self._head
        choices = [self._choice(choice) for choice in self.choices()]
        return _encode(
            wire.ChatCompletion(head.id, "chat.completion", head.created, head.model, choices, usage_body(usage))
        )

    def _role(self, index: int) -> str | None:
        if index not in self._unsaid_roles:
            return None
        self._unsaid_roles.remove(index)
        return "assistant"

    def _choice(self, choice: ChoiceSoFar) -> wire.ChatChoice:
        message = wire.AssistantMessage(
            choice.content,
            tool_calls=tool_call_bodies(choice.calls) or None,
            reasoning_content=choice.reasoning or msgspec.UNSET,
        )
        told = ChatLogprobs(told_tokens(choice.logprobs)) if self._head.tells_logprobs else msgspec.UNSET
        return wire.ChatChoice(choice.reason, choice.index, message, told)

    def _chunk(self, choices: list[wire.ChatChunkChoice], usage: UsageBody | None = None) -> bytes:
        head = self._head
        return _encode(wire.ChatChunk(head.id, head.created, head.model, "chat.completion.chunk", choices, usage))


class TextAnswer(HeadedAnswer):
    """Answers of the text route."""

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        self._offsets: defaultdict[int, TextOffsets] = defaultdict(TextOffsets)

    def text_chunk(self, index: int, text: str, logprobs: Sequence[TokenLogprobs]) -> bytes:
        told = text_logprobs(logprobs, self._offsets[index]) if logprobs else None
        return self._chunk([wire.TextChunkChoice(index=index, text=text, logprobs=told)])

    def finish_chunks(self, index: int, reason: FinishReason) -> Iterable[bytes]:
        return [self._chunk([wire.TextChunkChoice(index=index, text="", finish_reason=reason)])]

    def usage_chunk(self, usage: UsageBody) -> bytes:
        return self._chunk([], usage)

    def document(self, usage: Usage) -> bytes:
        head = self._head
        choices = [self._choice(choice) for choice in self.choices()]
        return _encode(
            wire.TextCompletion(head.id, "text_completion", head.created, head.model, choices, usage_body(usage))
        )

    def _choice(self, choice: ChoiceSoFar) -> wire.TextChoice:
        told = text_logprobs(choice.logprobs, TextOffsets()) if self._head.tells_logprobs else None
        return wire.TextChoice(choice.reason, choice.index, choice.text, told)

    def _chunk(self, choices: list[wire.TextChunkChoice], usage: UsageBody | None = None) -> bytes:
        head = self._head
        return _encode(wire.TextChunk(head.id, head.created, head.model, "text_completion", choices, usage))
