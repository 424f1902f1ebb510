"""Between this dialect's JSON and core: requests in, events out, errors in LiteLLM's envelope."""

from collections.abc import Callable, Iterator, Sequence

import msgspec
from starlette.datastructures import Headers

from dragoman.core.errors import (
    BadRequest,
    BodyTooLarge,
    ContextOverflow,
    DragomanError,
    ModelNotFound,
    Overloaded,
    ShuttingDown,
    Unauthenticated,
)
from dragoman.core.events import Usage
from dragoman.core.limits import MAX_SEED, check_sampling
from dragoman.core.request import GenerationRequest, Prompt, SamplingParams, TextPrompt
from dragoman.dialects import sse
from dragoman.dialects.exchange import Call, ErrorReply
from dragoman.dialects.infermatic import wire
from dragoman.dialects.openai_answer import HeadedAnswer, new_head
from dragoman.dialects.openai_shapes import UsageBody, chat_prompt, is_token_id, stop_strings, text_prompts, usage_body
from dragoman.dialects.validation import InvalidFields, MalformedJson, Missing, Violation, fastapi_detail, read

HIGHEST_PRIORITY_NUMBER = 255

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


def decode_chat(body: bytes, request_id: str, path_model: str | None) -> Call:
    """A chat completion. The model of the path beats the one in the body. Raises BadRequest."""
    sent = read(body, wire.ChatRequest)
    model = _model(sent, path_model)
    _refuse("logprobs", sent.logprobs)
    _refuse("top_logprobs", sent.top_logprobs)
    _refuse("tools", sent.tools)
    _refuse("tool_choice", sent.tool_choice not in (None, "none", "auto"))
    _refuse("response_format", sent.response_format is not None and sent.response_format.type != "text")
    requests = _requests(sent, model, [chat_prompt(sent.messages)], echo=False)
    return Call(requests, sent.stream, ChatAnswer(new_head(f"chatcmpl-{request_id}", model, sent.stream_options)))


def decode_text(body: bytes, request_id: str, path_model: str | None) -> Call:
    """A text completion, of one or several prompts. Raises BadRequest."""
    sent = read(body, wire.TextRequest)
    model = _model(sent, path_model)
    _refuse("logprobs", sent.logprobs is not None)
    _refuse("suffix", sent.suffix)
    requests = _requests(sent, model, text_prompts(sent.prompt), echo=sent.echo)
    return Call(requests, sent.stream, TextAnswer(new_head(f"cmpl-{request_id}", model, sent.stream_options)))


def _model(sent: wire.CompletionRequest, path_model: str | None) -> str:
    model = path_model or sent.model
    if not model:
        raise InvalidFields([Violation(("model",), Missing())])
    return model


def _refuse(parameter: str, given: object) -> None:
    if given:
        raise BadRequest(f"{parameter} is not supported by this server", parameter)


def _requests(
    sent: wire.CompletionRequest, model: str, prompts: Sequence[Prompt], *, echo: bool
) -> list[GenerationRequest]:
    sampling = check_sampling(_sampling(sent))
    _refuse("best_of", sent.best_of not in (None, sent.n))
    # 0 is LiteLLM's way to say nothing; numbers above the highest count as the highest.
    priority = min(sent.priority, HIGHEST_PRIORITY_NUMBER) or wire.DEFAULT_PRIORITY
    return [GenerationRequest(model, prompt, sampling, sent.n, echo, priority) for prompt in prompts]


def _sampling(sent: wire.CompletionRequest) -> SamplingParams:
    return SamplingParams(
        max_tokens=sent.max_tokens if sent.max_completion_tokens is None else sent.max_completion_tokens,
        min_tokens=sent.min_tokens,
        temperature=sent.temperature,
        top_k=sent.top_k,
        top_p=sent.top_p,
        min_p=sent.min_p,
        repetition_penalty=sent.repetition_penalty,
        presence_penalty=sent.presence_penalty,
        frequency_penalty=sent.frequency_penalty,
        logit_bias={_token_id(token): bias for token, bias in sent.logit_bias.items()},
        seed=None if sent.seed is None else _seed(sent.seed),
        stop=stop_strings(sent.stop),
        stop_token_ids=tuple(sent.stop_token_ids),
        ignore_eos=sent.ignore_eos,
        include_stop_text=sent.include_stop_str_in_output,
        skip_special_tokens=sent.skip_special_tokens,
        spaces_between_special_tokens=sent.spaces_between_special_tokens,
    )


def _seed(seed: int) -> int | None:
    """-1 means none; other negative numbers are read as unsigned 64-bit ones."""
    if not -(2**63) <= seed <= MAX_SEED:
        raise BadRequest(f"seed must be an integer of at most 64 bits, got {str(seed)[:40]}", "seed")
    return None if seed == -1 else seed if seed >= 0 else seed & MAX_SEED


def _token_id(text: str) -> int:
    if not is_token_id(text):
        raise BadRequest(f"logit_bias must have token ids as keys, got '{text[:40]}'", "logit_bias")
    return int(text)


class ChatAnswer(HeadedAnswer):
    """Answers of the chat route. The role comes with the first text, the reason with an empty delta."""

    def text_chunk(self, index: int, text: str) -> bytes:
        role = "assistant" if self.is_first(index) else None
        return self._chunk([wire.ChatChunkChoice(index=index, delta=wire.ChatDelta(content=text, role=role))])

    def finish_chunks(self, index: int, reason: str) -> Iterator[bytes]:
        yield self._chunk([wire.ChatChunkChoice(index=index, delta=wire.ChatDelta(), finish_reason=reason)])

    def usage_chunk(self, usage: UsageBody) -> bytes:
        return self._chunk([], usage)

    def document(self, usage: Usage) -> bytes:
        head = self._head
        choices = [
            wire.ChatChoice(reason, index, wire.AssistantMessage(text)) for index, text, reason in self.choices()
        ]
        return _encode(
            wire.ChatCompletion(head.id, "chat.completion", head.created, head.model, choices, usage_body(usage))
        )

    def _chunk(self, choices: list[wire.ChatChunkChoice], usage: UsageBody | None = None) -> bytes:
        head = self._head
        return _encode(wire.ChatChunk(head.id, head.created, head.model, "chat.completion.chunk", choices, usage))


class TextAnswer(HeadedAnswer):
    """Answers of the text route."""

    def text_chunk(self, index: int, text: str) -> bytes:
        return self._chunk([wire.TextChunkChoice(index=index, text=text)])

    def finish_chunks(self, index: int, reason: str) -> Iterator[bytes]:
        yield self._chunk([wire.TextChunkChoice(index=index, text="", finish_reason=reason)])

    def usage_chunk(self, usage: UsageBody) -> bytes:
        return self._chunk([], usage)

    def document(self, usage: Usage) -> bytes:
        head = self._head
        choices = [wire.TextChoice(reason, index, text) for index, text, reason in self.choices()]
        return _encode(
            wire.TextCompletion(head.id, "text_completion", head.created, head.model, choices, usage_body(usage))
        )

    def _chunk(self, choices: list[wire.TextChunkChoice], usage: UsageBody | None = None) -> bytes:
        head = self._head
        return _encode(wire.TextChunk(head.id, head.created, head.model, "text_completion", choices, usage))


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
                return _detail(400, "Invalid JSON in request body", "bad_request_error")
            case InvalidFields(violations=[Violation(path, Missing()), *_]) if len(path) == 1:
                return _detail(400, f"Missing required parameter: '{path[0]}'", "bad_request_error", str(path[0]))
            case ContextOverflow():
                message = f"litellm.ContextWindowExceededError: {error.message}"
                return _detail(400, message, "bad_request_error", self._prompt_parameter)
            case BadRequest():
                message = f"litellm.BadRequestError: {error.message}"
                return _detail(400, message, "bad_request_error", error.parameter or "None")
            case Unauthenticated():
                return _detail(401, f"Authentication Error, {_key_fault(error)}", "auth_error")
            case ModelNotFound():
                message = (
                    f"{self._route}: Invalid model name passed in model={error.model}. "
                    "Call `/v1/models` to view available models for your key."
                )
                return _detail(400, message, "None")
            case BodyTooLarge():
                return _detail(413, error.message, "bad_request_error")
            case ShuttingDown():
                return _detail(503, f"litellm.ServiceUnavailableError: {error.message}", "None")
            case Overloaded():
                message = f"No deployments available for selected model, Try again in {error.retry_after} seconds"
                return _detail(429, f"{message}. {error.message}", "None")
            case _:
                message = f"litellm.InternalServerError: {error.message}"
                return _detail(500, message, "internal_server_error")


def _detail(status: int, message: str, kind: str, parameter: str = "None") -> tuple[int, wire.ErrorDetail]:
    return status, wire.ErrorDetail(message, kind, parameter, str(status))


def _key_fault(error: Unauthenticated) -> str:
    match error.fault:
        case "missing":
            return "No api key passed in."
        case "malformed":
            return f"Malformed API Key passed in. Ensure Key has `Bearer ` prefix. Passed in: ****{error.ending}"
        case "unknown" if not error.has_prefix:
            return f"LiteLLM Virtual Key expected. Received=****{error.ending}, expected to start with 'sk-'."
        case "unknown":
            return "Invalid proxy server token passed"


class LookupErrors(InfermaticErrors):
    """The errors of the routes that look something up: what they do not find is not there."""

    def __init__(self) -> None:
        super().__init__("", "prompt")

    def reply(self, error: DragomanError) -> ErrorReply:
        if isinstance(error, ModelNotFound):
            detail = wire.ErrorDetail(error.message, "not_found_error", "model", "404")
            return ErrorReply(404, _encode(wire.ErrorBody(detail)), {})
        return super().reply(error)


class TokenCounterErrors(LookupErrors):
    """The token counter tells of a wrong body as FastAPI does."""

    def reply(self, error: DragomanError) -> ErrorReply:
        if isinstance(error, InvalidFields):
            return ErrorReply(422, _encode({"detail": [fastapi_detail(found) for found in error.violations]}), {})
        if isinstance(error, BadRequest) and not isinstance(error, MalformedJson | ContextOverflow):
            return ErrorReply(400, _encode({"detail": error.message}), {})
        return super().reply(error)


def decode_count(body: bytes) -> wire.TokenCountRequest:
    """A question to the token counter. Raises BadRequest."""
    return read(body, wire.TokenCountRequest)


def counted_prompt(sent: wire.TokenCountRequest) -> Prompt:
    """What is to be counted: the prompt wins over the messages. Raises BadRequest."""
    if sent.prompt is not None:
        return TextPrompt(sent.prompt)
    if sent.messages is None:
        raise BadRequest("prompt or messages must be provided")
    return chat_prompt(sent.messages)


def read_key(headers: Headers) -> str | None:
    """The key a request brings: the first of these headers that is there decides. Raises Unauthenticated."""
    if authorization := headers.get("authorization"):
        for prefix in ("Bearer ", "bearer ", "Basic "):
            if authorization.startswith(prefix):
                return authorization.removeprefix(prefix).strip() or None
        raise Unauthenticated("malformed", authorization)
    return next((headers[name] for name in ("api-key", "x-api-key", "x-goog-api-key") if headers.get(name)), None)
