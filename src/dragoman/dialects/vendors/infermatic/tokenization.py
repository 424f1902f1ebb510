"""vLLM's routes that convert a prompt to tokens, and tokens to text."""

from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dragoman.core.context import Caller
from dragoman.core.errors import BadRequest
from dragoman.core.limits import MAX_MESSAGES
from dragoman.core.models import ServedModel
from dragoman.core.request import ChatPrompt, Prompt, TextPrompt
from dragoman.core.services import VisibleModels
from dragoman.dialects.http.context import RouteContext, authenticated, json_response, require_model
from dragoman.dialects.http.large_bodies import receive
from dragoman.dialects.http.operation import Operation
from dragoman.dialects.http.validation import InvalidFields, MissingField, Violation, decode_body, raise_violations
from dragoman.dialects.openai.parse import check_chat_template, parse_tools
from dragoman.dialects.openai.wire import Template, TemplateArguments, Tools
from dragoman.dialects.vendors.infermatic import wire
from dragoman.dialects.vendors.infermatic.errors import LookupErrors
from dragoman.dialects.vendors.infermatic.parameters import opens_turn, parse_conversation


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt or a conversation; `prompt` precedes `messages`."""

    model: str | None = None
    """Required if the key may use several models."""
    prompt: str | None = None
    messages: Annotated[list[wire.ReasoningChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)] | None = None
    tools: Tools = []
    add_special_tokens: bool | None = None
    """Of a prompt: whether tokens such as BOS are added; None: they are. A conversation has those of its template."""
    add_generation_prompt: bool | None = None
    """Whether the assistant's turn is begun; None: unless `continue_final_message`."""
    continue_final_message: bool = False
    """End inside the last message."""
    chat_template: Template | None = None
    """None: the model's own."""
    chat_template_kwargs: TemplateArguments = {}
    return_token_strs: bool = False


class TokenizeResponse(msgspec.Struct, frozen=True):
    count: int
    max_model_len: int
    """The model's context, in tokens."""
    tokens: list[int]
    token_strs: list[str] | None
    """Each token as the vocabulary writes it. None unless asked for."""


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str | None = None
    """Required if the key may use several models."""
    tokens: list[int]
    """At most as many as the model's context holds."""


class DetokenizeResponse(msgspec.Struct, frozen=True):
    prompt: str


def tokenization_routes(route: RouteContext) -> list[Route]:
    """Return the routes."""

    async def tokenize(request: Request) -> Response:
        async def handler(caller: Caller, visible: VisibleModels) -> Response:
            sent, prompt = await receive(request, route, caller, _decode_tokenize)
            model = _model(sent.model, visible)
            async with route.service.counting_turn(caller):
                tokenized = await visible.tokenize(model.id, prompt)
            # Only now has the engine reported its context for certain.
            context_length = _model(sent.model, visible).context_length or 0
            texts = list(tokenized.texts) if sent.return_token_strs else None
            tokens = list(tokenized.token_ids)
            return json_response(TokenizeResponse(len(tokens), context_length, tokens, texts))

        return await authenticated(request, route, handler, _ERRORS)

    async def detokenize(request: Request) -> Response:
        async def handler(caller: Caller, visible: VisibleModels) -> Response:
            sent = await receive(request, route, caller, _decode_detokenize)
            model = _model(sent.model, visible)
            async with route.service.counting_turn(caller):
                return json_response(DetokenizeResponse(await visible.detokenize(model.id, sent.tokens)))

        return await authenticated(request, route, handler, _ERRORS)

    return [Route("/tokenize", tokenize, methods=["POST"]), Route("/detokenize", detokenize, methods=["POST"])]


def _decode_tokenize(body: bytes) -> tuple[TokenizeRequest, Prompt]:
    sent = decode_body(body, TokenizeRequest)
    return sent, _prompt(sent)


def _decode_detokenize(body: bytes) -> DetokenizeRequest:
    return decode_body(body, DetokenizeRequest)


def _model(name: str | None, visible: VisibleModels) -> ServedModel:
    """Return the model with this name, or the only one. Raises ModelNotFound or InvalidFields."""
    if name is None:
        models = visible.models()
        if len(models) != 1:
            raise InvalidFields([Violation(("model",), MissingField())])
        return models[0]
    return require_model(visible, name)


def _prompt(sent: TokenizeRequest) -> Prompt:
    if sent.prompt is not None:
        return TextPrompt(sent.prompt, add_special_tokens=sent.add_special_tokens is not False)
    if sent.messages is None:
        raise BadRequest("prompt or messages must be provided", "prompt")
    violations: list[Violation] = []
    messages = parse_conversation(sent.messages, violations)
    tools = parse_tools(sent.tools, None, violations)
    check_chat_template(sent.chat_template, sent.chat_template_kwargs, violations)
    raise_violations(violations)
    return ChatPrompt(
        messages=messages,
        tools=tools,
        template=sent.chat_template,
        template_arguments=sent.chat_template_kwargs,
        add_generation_prompt=opens_turn(
            messages, add=sent.add_generation_prompt, continue_message=sent.continue_final_message
        ),
        continue_final_message=sent.continue_final_message,
    )


_ERRORS = LookupErrors()

_STATUSES = (400, 401, 403, 404, 408, 413, 429, 500, 502)

OPERATIONS = (
    Operation(
        method="POST",
        path="/tokenize",
        summary="The tokens of a prompt",
        response=TokenizeResponse,
        error=wire.ErrorBody,
        error_statuses=_STATUSES,
        request=TokenizeRequest,
        example={"model": "{model}", "prompt": "Once upon a time"},
    ),
    Operation(
        method="POST",
        path="/detokenize",
        summary="The text of tokens",
        response=DetokenizeResponse,
        error=wire.ErrorBody,
        error_statuses=_STATUSES,
        request=DetokenizeRequest,
        example={"model": "{model}", "tokens": [72, 105]},
    ),
)
