"""Builds this dialect's responses: each event of a stream has the shape of the whole answer."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from dragoman.core.events import FinishReason, TokenLogprobs, Usage
from dragoman.dialects.http.response_builder import BaseResponseBuilder, ChoiceState
from dragoman.dialects.http.sse import SseEvent
from dragoman.dialects.openai.logprobs import chat_token_logprobs
from dragoman.dialects.vendors.scale import wire

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


class ScaleResponseBuilder(BaseResponseBuilder):
    """Builds events and whole answers of one shape; the last event has the counts and no text.

    There is no member for reasoning: it is counted, not shown.
    """

    def text_chunk(self, _index: int, text: str, logprobs: Sequence[TokenLogprobs]) -> bytes:
        return self.body(text, None, None, logprobs or None)

    def finish_chunks(self, _index: int, _reason: FinishReason) -> Iterable[bytes]:
        return ()  # the finish reason is sent with the counts

    def usage_chunks(self, usage: Usage) -> Iterable[bytes]:
        return [self.body("", self._only_choice().finish_reason, usage, None)]

    def terminator(self) -> Iterable[SseEvent]:
        return ()  # clients would parse [DONE] as JSON

    def document(self, usage: Usage) -> bytes:
        choice = self._only_choice()
        return self.body(choice.text, choice.finish_reason, usage, choice.logprobs)

    def _only_choice(self) -> ChoiceState:
        [choice] = self.choices()
        return choice

    def body(
        self, text: str, reason: FinishReason | None, usage: Usage | None, logprobs: Sequence[TokenLogprobs] | None
    ) -> bytes:
        """Return one event, or the whole answer. `logprobs` is None if an event has none."""
        raise NotImplementedError


class DeploymentResponseBuilder(ScaleResponseBuilder):
    """Builds responses of the routes with the deployment in the path: the text beside its prompt."""

    def __init__(self, prompt: str, *, has_logprobs: bool = False) -> None:
        super().__init__()
        self._prompt = prompt
        self._has_logprobs = has_logprobs

    def body(
        self, text: str, reason: FinishReason | None, usage: Usage | None, logprobs: Sequence[TokenLogprobs] | None
    ) -> bytes:
        prompt_tokens, response_tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        choices = None
        if self._has_logprobs and logprobs is not None:
            choices = [wire.ChoiceLogprobs(0, wire.ChoiceLogprobsContent(chat_token_logprobs(logprobs)))]
        pair = (self._prompt, [text])
        return _encode(
            wire.DeploymentCompletion(
                completions=[pair],
                choices=choices,
                finish_reason=reason,
                prompt_tokens=prompt_tokens,
                response_tokens=response_tokens,
            )
        )


class ChatResponseBuilder(ScaleResponseBuilder):
    """Builds responses of the chat route with the model in the body."""

    def body(
        self, text: str, reason: FinishReason | None, usage: Usage | None, _logprobs: Sequence[TokenLogprobs] | None
    ) -> bytes:
        completion = wire.ChatCompletion(wire.AssistantMessage("assistant", text), reason)
        return _encode(wire.ChatCompletionBody(completion, _token_usage(usage)))


class TextResponseBuilder(ScaleResponseBuilder):
    """Builds responses of the text route with the model in the body."""

    def body(
        self, text: str, reason: FinishReason | None, usage: Usage | None, _logprobs: Sequence[TokenLogprobs] | None
    ) -> bytes:
        return _encode(wire.TextCompletionBody(wire.TextCompletion(text, reason), _token_usage(usage)))


def _token_usage(usage: Usage | None) -> wire.TokenUsage | None:
    if usage is None:
        return None
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    return wire.TokenUsage(prompt, completion, prompt + completion)
