"""Between this dialect's JSON and core: requests in, events out, errors in LiteLLM's envelope."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from dragoman.core.errors import (
    BadRequest,
    BodyTooLarge,
    ContextOverflow,
    DragomanError,
    EngineFailed,
    ModelNotFound,
    Overloaded,
)
from dragoman.core.events import Delta, Event, Finished, Usage
from dragoman.core.limits import MAX_SEED, check_choices, check_sampling
from dragoman.core.request import GenerationRequest, Prompt, SamplingParams
from dragoman.dialects import sse
from dragoman.dialects.exchange import Call, ErrorReply
from dragoman.dialects.infermatic import wire
from dragoman.dialects.json_body import MalformedJson, decode, real, whole
from dragoman.dialects.openai_shapes import Number, UsageBody, chat_prompt, text_prompts, usage_body

TEXT_MAX_TOKENS = 16
"""Default of the text route, as OpenAI and vLLM have it; chat takes the rest of the context."""

DEFAULT_PRIORITY = 128
HIGHEST_PRIORITY_NUMBER = 255

_chat_decoder = msgspec.json.Decoder(wire.ChatRequest)
_text_decoder = msgspec.json.Decoder(wire.TextRequest)
_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


def decode_chat(body: bytes, request_id: str, path_model: str | None) -> Call:
    """A chat completion. The model of the path beats the one in the body. Raises BadRequest."""
    sent = decode(_chat_decoder, body)
    model = _model(sent, path_model)
    if sent.messages is None:
        raise BadRequest("Missing required parameter: 'messages'", "messages")
    _refuse("logprobs", sent.logprobs)
    _refuse("top_logprobs", sent.top_logprobs)
    _refuse("tools", sent.tools)
    _refuse("tool_choice", sent.tool_choice not in (None, "none", "auto"))
    _refuse("response_format", sent.response_format is not None and sent.response_format.type != "text")
    requests = _requests(sent, model, [chat_prompt(sent.messages)], default_max_tokens=None, echo=False)
    return Call(requests, bool(sent.stream), ChatMachine(_answer(sent, model, f"chatcmpl-{request_id}")))


def decode_text(body: bytes, request_id: str, path_model: str | None) -> Call:
    """A text completion, of one or several prompts. Raises BadRequest."""
    sent = decode(_text_decoder, body)
    model = _model(sent, path_model)
    if sent.prompt is None:
        raise BadRequest("Missing required parameter: 'prompt'", "prompt")
    _refuse("logprobs", sent.logprobs is not None)
    _refuse("suffix", sent.suffix)
    requests = _requests(
        sent, model, text_prompts(sent.prompt), default_max_tokens=TEXT_MAX_TOKENS, echo=bool(sent.echo)
    )
    return Call(requests, bool(sent.stream), TextMachine(_answer(sent, model, f"cmpl-{request_id}")))


def _model(sent: wire.CompletionRequest, path_model: str | None) -> str:
    model = path_model or sent.model
    if not model:
        raise BadRequest("Missing required parameter: 'model'", "model")
    return model


def _refuse(parameter: str, given: object) -> None:
    if given:
        raise BadRequest(f"{parameter} is not supported by this server", parameter)


def _requests(
    sent: wire.CompletionRequest,
    model: str,
    prompts: Sequence[Prompt],
    *,
    default_max_tokens: int | None,
    echo: bool,
) -> list[GenerationRequest]:
    sampling = check_sampling(_sampling(sent, default_max_tokens))
    n = check_choices(_integer("n", sent.n, 1))
    _refuse("best_of", _integer("best_of", sent.best_of, n) != n)
    priority = _priority(_integer("priority", sent.priority, DEFAULT_PRIORITY))
    return [GenerationRequest(model, prompt, sampling, n, echo, priority) for prompt in prompts]


def _sampling(sent: wire.CompletionRequest, default_max_tokens: int | None) -> SamplingParams:
    off = SamplingParams()
    stop = [sent.stop] if isinstance(sent.stop, str) else sent.stop or []
    return SamplingParams(
        max_tokens=_max_tokens(sent, default_max_tokens),
        min_tokens=_integer("min_tokens", sent.min_tokens, off.min_tokens),
        temperature=_number("temperature", sent.temperature, off.temperature),
        top_k=_integer("top_k", sent.top_k, off.top_k),
        top_p=_number("top_p", sent.top_p, off.top_p),
        min_p=_number("min_p", sent.min_p, off.min_p),
        repetition_penalty=_number("repetition_penalty", sent.repetition_penalty, off.repetition_penalty),
        presence_penalty=_number("presence_penalty", sent.presence_penalty, off.presence_penalty),
        frequency_penalty=_number("frequency_penalty", sent.frequency_penalty, off.frequency_penalty),
        logit_bias={_token_id(token): real("logit_bias", bias) for token, bias in (sent.logit_bias or {}).items()},
        seed=None if sent.seed is None else _seed(whole("seed", sent.seed)),
        stop=tuple(stop),
        stop_token_ids=tuple(whole("stop_token_ids", token) for token in sent.stop_token_ids or ()),
        ignore_eos=bool(sent.ignore_eos),
        include_stop_text=bool(sent.include_stop_str_in_output),
        skip_special_tokens=sent.skip_special_tokens is not False,
        spaces_between_special_tokens=sent.spaces_between_special_tokens is not False,
    )


def _max_tokens(sent: wire.CompletionRequest, default: int | None) -> int | None:
    if sent.max_completion_tokens is None:
        return default if sent.max_tokens is None else whole("max_tokens", sent.max_tokens)
    most = whole("max_completion_tokens", sent.max_completion_tokens)
    if most < 1:
        raise BadRequest(f"max_completion_tokens must be at least 1, got {most}", "max_completion_tokens")
    return most


def _number(parameter: str, value: Number | None, default: float) -> float:
    return default if value is None else real(parameter, value)


def _integer(parameter: str, value: Number | None, default: int) -> int:
    return default if value is None else whole(parameter, value)


def _seed(seed: int) -> int | None:
    """-1 means none; other negative numbers are read as unsigned 64-bit ones."""
    return None if seed == -1 else seed if seed >= 0 else seed & MAX_SEED


def _priority(priority: int) -> int:
    """0 is LiteLLM's way to say nothing; numbers above the highest count as the highest."""
    if priority < 0:
        raise BadRequest(f"priority must be 0 or more, got {priority}", "priority")
    return min(priority, HIGHEST_PRIORITY_NUMBER) or DEFAULT_PRIORITY


def _token_id(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise BadRequest(f"logit_bias must have token ids as keys, got '{text[:40]}'", "logit_bias")
    return int(text)


class _Answer(NamedTuple):
    """What all documents of one answer share."""

    id: str
    created: int
    model: str
    include_usage: bool
    """Whether a stream ends with its usage."""


def _answer(sent: wire.CompletionRequest, model: str, answer_id: str) -> _Answer:
    include_usage = bool(sent.stream_options and sent.stream_options.include_usage)
    return _Answer(answer_id, int(time.time()), model, include_usage)


class _Machine:
    """What chat and text have in common: texts and reasons by choice, and the usage at the end."""

    def __init__(self, answer: _Answer) -> None:
        self._answer = answer
        self._texts: dict[int, list[str]] = {}
        self._reasons: dict[int, str] = {}
        self._usage: Usage | None = None

    def feed(self, event: Event) -> Iterator[bytes]:
        """The chunks this event gives, as JSON."""
        match event:
            case Delta(index, text) if text:
                self._texts.setdefault(index, []).append(text)
                yield self._chunk(index, text, None)
            case Finished(index, reason):
                self._texts.setdefault(index, [])
                self._reasons[index] = reason
                yield self._chunk(index, "", reason)
            case Usage():
                self._usage = event
                if self._answer.include_usage:
                    yield self._usage_chunk(usage_body(event))

    def terminator(self) -> bytes:
        """The frame after the last chunk."""
        return sse.DONE

    def collected(self) -> bytes:
        """All chunks as one completion. Raises EngineFailed when the engine broke off without an error."""
        if self._usage is None:
            raise EngineFailed("The engine ended its answer without telling its usage")
        return self._completion(usage_body(self._usage))

    def _choices(self) -> Iterator[tuple[int, str, str]]:
        """Index, text and finish reason of every choice, in order."""
        for index, parts in sorted(self._texts.items()):
            yield index, "".join(parts), self._reasons[index]

    def _chunk(self, index: int, text: str, reason: str | None) -> bytes:
        raise NotImplementedError

    def _usage_chunk(self, usage: UsageBody) -> bytes:
        raise NotImplementedError

    def _completion(self, usage: UsageBody) -> bytes:
        raise NotImplementedError


class ChatMachine(_Machine):
    """Answers of the chat route. The role comes with the first text, the reason with an empty delta."""

    def _chunk(self, index: int, text: str, reason: str | None) -> bytes:
        first = len(self._texts[index]) == 1
        delta = wire.ChatDelta(content=text or None, role="assistant" if text and first else None)
        return self._document([wire.ChatChunkChoice(index=index, delta=delta, finish_reason=reason)])

    def _usage_chunk(self, usage: UsageBody) -> bytes:
        return self._document([], usage)

    def _document(self, choices: list[wire.ChatChunkChoice], usage: UsageBody | None = None) -> bytes:
        answer = self._answer
        return _encode(wire.ChatChunk(answer.id, answer.created, answer.model, "chat.completion.chunk", choices, usage))

    def _completion(self, usage: UsageBody) -> bytes:
        answer = self._answer
        choices = [
            wire.ChatChoice(reason, index, wire.AssistantMessage(text)) for index, text, reason in self._choices()
        ]
        return _encode(wire.ChatCompletion(answer.id, "chat.completion", answer.created, answer.model, choices, usage))


class TextMachine(_Machine):
    """Answers of the text route."""

    def _chunk(self, index: int, text: str, reason: str | None) -> bytes:
        return self._document([wire.TextChunkChoice(index=index, text=text, finish_reason=reason)])

    def _usage_chunk(self, usage: UsageBody) -> bytes:
        return self._document([], usage)

    def _document(self, choices: list[wire.TextChunkChoice], usage: UsageBody | None = None) -> bytes:
        answer = self._answer
        return _encode(wire.TextChunk(answer.id, answer.created, answer.model, "text_completion", choices, usage))

    def _completion(self, usage: UsageBody) -> bytes:
        answer = self._answer
        choices = [wire.TextChoice(reason, index, text) for index, text, reason in self._choices()]
        return _encode(wire.TextCompletion(answer.id, "text_completion", answer.created, answer.model, choices, usage))


class InfermaticErrors:
    """The error tree in this dialect's envelope, before and after the first byte."""

    def __init__(self, route: str, prompt_parameter: str) -> None:
        """`route` is named in one message; `prompt_parameter` is the field a prompt that is too long came in."""
        self._route = route
        self._prompt_parameter = prompt_parameter

    def reply(self, error: DragomanError) -> ErrorReply:
        """Status, body and headers."""
        status, detail = self._detail(error)
        headers = {"retry-after": str(error.retry_after)} if isinstance(error, Overloaded) else {}
        return ErrorReply(status, _encode(wire.ErrorBody(detail)), headers)

    def frame(self, error: DragomanError) -> bytes:
        """The last frame of a stream that failed; no terminator follows it."""
        return sse.frame(_encode(wire.ErrorBody(self._detail(error)[1])))

    def _detail(self, error: DragomanError) -> tuple[int, wire.ErrorDetail]:
        match error:
            case MalformedJson():
                return _detail(400, error.message, "bad_request_error")
            case ContextOverflow():
                message = f"litellm.ContextWindowExceededError: {error.message}"
                return _detail(400, message, "bad_request_error", self._prompt_parameter)
            case BadRequest():
                prefix = "" if error.message.startswith("Missing required") else "litellm.BadRequestError: "
                return _detail(400, prefix + error.message, "bad_request_error", error.parameter or "None")
            case ModelNotFound():
                message = (
                    f"{self._route}: Invalid model name passed in model={error.model}. "
                    "Call `/v1/models` to view available models for your key."
                )
                return _detail(400, message, "None")
            case BodyTooLarge():
                return _detail(413, error.message, "bad_request_error")
            case Overloaded():
                message = f"litellm.ServiceUnavailableError: {error.message}. Try again in {error.retry_after} seconds"
                return _detail(503, message, "None")
            case _:
                message = f"litellm.InternalServerError: {error.message}"
                return _detail(500, message, "internal_server_error")


def _detail(status: int, message: str, kind: str, parameter: str = "None") -> tuple[int, wire.ErrorDetail]:
    return status, wire.ErrorDetail(message, kind, parameter, str(status))
