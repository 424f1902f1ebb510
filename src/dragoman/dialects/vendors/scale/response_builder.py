"""Events as this dialect's documents: pieces of text, each in the shape of the whole answer."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from dragoman.core.events import FinishReason, TokenLogprobs, Usage
from dragoman.dialects.http.response_builder import BaseResponseBuilder, ChoiceState
from dragoman.dialects.openai.logprobs import chat_token_logprobs
from dragoman.dialects.vendors.scale import wire

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


class ScaleResponseBuilder(BaseResponseBuilder):
    """All events of a stream and the answer as a whole have one shape; the last event has the counts and no text.

    There is no member for thoughts: they are counted, not shown.
    """

    def text_chunk(self, _index: int, text: str, logprobs: Sequence[TokenLogprobs]) -> bytes:
        return self.body(text, None, None, logprobs or None)

    def finish_chunks(self, _index: int, _reason: FinishReason) -> Iterable[bytes]:
        return ()  # the reason goes with the counts

    def usage_chunks(self, usage: Usage) -> Iterable[bytes]:
        return [self.body("", self._only_choice().finish_reason, usage, None)]

    def terminator(self) -> bytes:
        return b""  # the clients would take [DONE] for JSON

    def document(self, usage: Usage) -> bytes:
        choice = self._only_choice()
        return self.body(choice.text, choice.finish_reason, usage, choice.logprobs)

    def _only_choice(self) -> ChoiceState:
        [choice] = self.choices()
        return choice

    def body(
        self, text: str, reason: FinishReason | None, usage: Usage | None, logprobs: Sequence[TokenLogprobs] | None
    ) -> bytes:
        """One event, or the whole answer. `logprobs` are None where an event has none to tell."""
        raise NotImplementedError


class DeploymentResponseBuilder(ScaleResponseBuilder):
    """The routes with the deployment in the path: the text beside its prompt."""

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
    """The chat route with the model in the body."""

    def body(
        self, text: str, reason: FinishReason | None, usage: Usage | None, _logprobs: Sequence[TokenLogprobs] | None
    ) -> bytes:
        completion = wire.ChatCompletion(wire.AssistantMessage("assistant", text), reason)
        return _encode(wire.ChatCompletionBody(completion, _token_usage(usage)))


class TextResponseBuilder(ScaleResponseBuilder):
    """The text route with the model in the body."""

    def body(
        self, text: str, reason: FinishReason | None, usage: Usage | None, _logprobs: Sequence[TokenLogprobs] | None
    ) -> bytes:
        return _encode(wire.TextCompletionBody(wire.TextCompletion(text, reason), _token_usage(usage)))


def _token_usage(usage: Usage | None) -> wire.TokenUsage | None:
    if usage is None:
        return None
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    return wire.TokenUsage(prompt, completion, prompt + completion)
