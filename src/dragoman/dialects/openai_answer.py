"""Answers in OpenAI's shape, as three of the dialects give them with small differences."""

import time
from collections.abc import Callable, Iterator

import msgspec
from msgspec import UNSET, UnsetType

from dragoman.core.events import Usage
from dragoman.dialects.answer import Answer
from dragoman.dialects.openai_shapes import StreamOptions, UsageBody, usage_body

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


class AssistantMessage(msgspec.Struct, frozen=True):
    role: str
    content: str


class ChatChoice(msgspec.Struct, frozen=True):
    index: int
    message: AssistantMessage
    finish_reason: str
    logprobs: UnsetType | None = UNSET


class ChatCompletion(msgspec.Struct, frozen=True):
    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBody
    system_fingerprint: str | UnsetType | None = UNSET


class ChatDelta(msgspec.Struct, frozen=True):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChatChunkChoice(msgspec.Struct, frozen=True):
    index: int
    delta: ChatDelta
    finish_reason: str | None = None
    logprobs: UnsetType | None = UNSET


class ChatChunk(msgspec.Struct, frozen=True):
    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: UsageBody | UnsetType = UNSET
    system_fingerprint: str | UnsetType | None = UNSET


class TextChoice(msgspec.Struct, frozen=True):
    index: int
    text: str
    logprobs: None
    finish_reason: str


class TextCompletion(msgspec.Struct, frozen=True):
    id: str
    object: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageBody


class TextChunkChoice(msgspec.Struct, frozen=True):
    index: int
    text: str
    logprobs: None = None
    finish_reason: str | None = None


class TextChunk(msgspec.Struct, frozen=True):
    id: str
    object: str
    created: int
    model: str
    choices: list[TextChunkChoice]
    usage: UsageBody | UnsetType = UNSET


class Head(msgspec.Struct, frozen=True):
    """What all documents of one answer share. UNSET members are left out of them."""

    id: str
    created: int
    model: str
    include_usage: bool
    """Whether a stream ends with its usage."""
    logprobs: UnsetType | None = UNSET
    """Of every choice of the chat route."""
    system_fingerprint: str | UnsetType | None = UNSET


def new_head(answer_id: str, model: str, options: StreamOptions | None) -> Head:
    """The head of an answer that begins now."""
    return Head(answer_id, int(time.time()), model, bool(options and options.include_usage))


class HeadedAnswer(Answer):
    """An answer whose documents share a head, and whose stream tells the usage when it was asked to."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self._head = head

    def usage_chunks(self, usage: Usage) -> Iterator[bytes]:
        if self._head.include_usage:
            yield self.usage_chunk(usage_body(usage))

    def usage_chunk(self, usage: UsageBody) -> bytes:
        """The chunk without choices that ends such a stream."""
        raise NotImplementedError


class ChatAnswer(HeadedAnswer):
    """A chat completion. The role comes in a chunk of its own before a choice's first text."""

    def opening_chunks(self, index: int) -> Iterator[bytes]:
        yield self._chunk(index, ChatDelta(role="assistant", content=""))

    def text_chunk(self, index: int, text: str) -> bytes:
        return self._chunk(index, ChatDelta(content=text))

    def finish_chunks(self, index: int, reason: str) -> Iterator[bytes]:
        yield self._chunk(index, ChatDelta(), reason)

    def usage_chunk(self, usage: UsageBody) -> bytes:
        return self._document([], usage)

    def document(self, usage: Usage) -> bytes:
        head = self._head
        choices = [
            ChatChoice(index, AssistantMessage("assistant", text), reason, head.logprobs)
            for index, text, reason in self.choices()
        ]
        return _encode(
            ChatCompletion(
                head.id,
                "chat.completion",
                head.created,
                head.model,
                choices,
                usage_body(usage),
                head.system_fingerprint,
            )
        )

    def _chunk(self, index: int, delta: ChatDelta, reason: str | None = None) -> bytes:
        return self._document([ChatChunkChoice(index, delta, reason, self._head.logprobs)])

    def _document(self, choices: list[ChatChunkChoice], usage: UsageBody | UnsetType = UNSET) -> bytes:
        head = self._head
        return _encode(
            ChatChunk(
                head.id, "chat.completion.chunk", head.created, head.model, choices, usage, head.system_fingerprint
            )
        )


class TextAnswer(HeadedAnswer):
    """A text completion."""

    def text_chunk(self, index: int, text: str) -> bytes:
        return self._document([TextChunkChoice(index, text)])

    def finish_chunks(self, index: int, reason: str) -> Iterator[bytes]:
        yield self._document([TextChunkChoice(index, "", finish_reason=reason)])

    def usage_chunk(self, usage: UsageBody) -> bytes:
        return self._document([], usage)

    def document(self, usage: Usage) -> bytes:
        head = self._head
        choices = [TextChoice(index, text, None, reason) for index, text, reason in self.choices()]
        return _encode(TextCompletion(head.id, "text_completion", head.created, head.model, choices, usage_body(usage)))

    def _document(self, choices: list[TextChunkChoice], usage: UsageBody | UnsetType = UNSET) -> bytes:
        head = self._head
        return _encode(TextChunk(head.id, "text_completion", head.created, head.model, choices, usage))
