"""Builds this dialect's responses. In a stream absent members are left out, and the role is in the first delta."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
from msgspec import UNSET

from dragoman.core.events import FinishReason, TokenLogprobs, ToolCallDelta, Usage
from dragoman.dialects.http.response_builder import ChoiceState
from dragoman.dialects.openai.logprobs import (
    ChatLogprobs,
    TextOffsets,
    chat_token_logprobs,
    plain_text,
    text_logprobs,
    token_id_text,
)
from dragoman.dialects.openai.response_builder import (
    OpenAIResponseBuilder,
    ResponseHead,
    completion_usage,
    tool_call_bodies,
    tool_call_delta_bodies,
)
from dragoman.dialects.openai.wire import CompletionUsage
from dragoman.dialects.vendors.infermatic import wire

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


class AnswerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the answer to a chat or a text is shown."""

    logprobs_as_token_ids: bool = False
    shows_reasoning: bool = True
    has_function_call: bool = False
    """Whether calls have OpenAI's older shape."""
    beginning: str = ""
    """Text before the model's."""


PLAIN_ANSWER = AnswerOptions()


class ChatResponseBuilder(OpenAIResponseBuilder):
    """Builds chat completions. The finish reason is sent with an empty delta."""

    def __init__(self, head: ResponseHead, options: AnswerOptions = PLAIN_ANSWER) -> None:
        super().__init__(head)
        self.shows_reasoning = options.shows_reasoning
        self.beginning = options.beginning
        self._options = options
        self._token_text = token_id_text if options.logprobs_as_token_ids else plain_text
        self._pending_roles: set[int] = set()

    def opening_chunks(self, index: int) -> Iterable[bytes]:
        self._pending_roles.add(index)
        return [self.text_chunk(index, self.beginning, ())] if self.beginning else ()

    def text_chunk(self, index: int, text: str, logprobs: Sequence[TokenLogprobs]) -> bytes:
        encoded_logprobs = self._logprobs(logprobs) if logprobs else None
        delta = wire.ChatDelta(content=text, role=self._role(index))
        return self._chunk([wire.ChatChunkChoice(index=index, delta=delta, logprobs=encoded_logprobs)])

    def reasoning_chunk(self, index: int, text: str) -> bytes:
        role = self._role(index)
        # Clients put messages together from chunks, and send them back: an assistant's content is required there.
        delta = wire.ChatDelta(reasoning_content=text, role=role, content=None if role is None else "")
        return self._chunk([wire.ChatChunkChoice(index=index, delta=delta)])

    def tool_call_chunks(self, tool_call_delta: ToolCallDelta) -> Iterable[bytes]:
        index = tool_call_delta.index
        for part in tool_call_delta_bodies(tool_call_delta):
            if not self._options.has_function_call:
                delta = wire.ChatDelta(tool_calls=[part], role=self._role(index))
            elif part.index == 0:  # There is only one.
                delta = wire.ChatDelta(function_call=part.function, role=self._role(index))
            else:
                continue
            yield self._chunk([wire.ChatChunkChoice(index=index, delta=delta)])

    def finish_chunks(self, index: int, reason: FinishReason) -> Iterator[bytes]:
        if index in self._pending_roles:
            yield self.text_chunk(index, "", ())
        choice = wire.ChatChunkChoice(
            index=index,
            delta=wire.ChatDelta(),
            finish_reason=self._finish_reason(reason),
            stop_reason=self._choices[index].stop_reason,
        )
        yield self._chunk([choice])

    def usage_chunk(self, usage: CompletionUsage) -> bytes:
        return self._chunk([], usage)

    def document(self, usage: Usage) -> bytes:
        return _encode(self._completion(usage))

    def _completion(self, usage: Usage) -> wire.ChatCompletion:
        head = self._head
        return wire.ChatCompletion(
            id=head.id,
            object="chat.completion",
            created=head.created,
            model=head.model,
            choices=[self._choice(choice) for choice in self.choices()],
            usage=completion_usage(usage),
            system_fingerprint=head.system_fingerprint,
        )

    def _role(self, index: int) -> str | None:
        if index not in self._pending_roles:
            return None
        self._pending_roles.remove(index)
        return "assistant"

    def _choice(self, choice: ChoiceState) -> wire.ChatChoice:
        calls = tool_call_bodies(choice.tool_calls)
        is_older = self._options.has_function_call
        message = wire.AssistantMessage(
            content=choice.content,
            tool_calls=calls if calls and not is_older else UNSET,
            function_call=calls[0].function if calls and is_older else UNSET,
            reasoning_content=choice.reasoning or UNSET,
        )
        return wire.ChatChoice(
            finish_reason=self._finish_reason(choice.finish_reason),
            index=choice.index,
            message=message,
            logprobs=self._logprobs(choice.logprobs) if self._head.has_logprobs else None,
            stop_reason=choice.stop_reason,
        )

    def _finish_reason(self, reason: FinishReason) -> str:
        return "function_call" if reason == "tool_calls" and self._options.has_function_call else reason

    def _logprobs(self, logprobs: Sequence[TokenLogprobs]) -> ChatLogprobs:
        return ChatLogprobs(chat_token_logprobs(logprobs, self._token_text, include_sampled=True))

    def _chunk(
        self,
        choices: Sequence[wire.ChatChunkChoice],
        usage: CompletionUsage | None = None,
        prompt_token_ids: list[int] | None = None,
    ) -> bytes:
        head = self._head
        return _encode(
            wire.ChatChunk(
                id=head.id,
                object="chat.completion.chunk",
                created=head.created,
                model=head.model,
                choices=choices,
                usage=usage,
                prompt_token_ids=prompt_token_ids,
            )
        )


class TextResponseBuilder(OpenAIResponseBuilder):
    """Builds text completions."""

    def __init__(self, head: ResponseHead, options: AnswerOptions = PLAIN_ANSWER) -> None:
        super().__init__(head)
        self._token_text = token_id_text if options.logprobs_as_token_ids else plain_text
        self._offsets: defaultdict[int, TextOffsets] = defaultdict(TextOffsets)

    def text_chunk(self, index: int, text: str, logprobs: Sequence[TokenLogprobs]) -> bytes:
        encoded_logprobs = text_logprobs(logprobs, self._offsets[index], self._token_text) if logprobs else None
        return self._chunk([wire.TextChunkChoice(index=index, text=text, logprobs=encoded_logprobs)])

    def finish_chunks(self, index: int, reason: FinishReason) -> Iterable[bytes]:
        choice = wire.TextChunkChoice(
            index=index, text="", finish_reason=reason, stop_reason=self._choices[index].stop_reason
        )
        return [self._chunk([choice])]

    def usage_chunk(self, usage: CompletionUsage) -> bytes:
        return self._chunk([], usage)

    def document(self, usage: Usage) -> bytes:
        head = self._head
        return _encode(
            wire.TextCompletion(
                id=head.id,
                object="text_completion",
                created=head.created,
                model=head.model,
                choices=[self._choice(choice) for choice in self.choices()],
                usage=completion_usage(usage),
                system_fingerprint=head.system_fingerprint,
            )
        )

    def _choice(self, choice: ChoiceState) -> wire.TextChoice:
        encoded_logprobs = (
            text_logprobs(choice.logprobs, TextOffsets(), self._token_text) if self._head.has_logprobs else None
        )
        return wire.TextChoice(
            finish_reason=choice.finish_reason,
            index=choice.index,
            text=choice.text,
            logprobs=encoded_logprobs,
            stop_reason=choice.stop_reason,
        )

    def _chunk(self, choices: Sequence[wire.TextChunkChoice], usage: CompletionUsage | None = None) -> bytes:
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
