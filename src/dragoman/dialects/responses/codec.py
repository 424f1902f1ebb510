"""Decodes requests of the Responses API."""

from collections.abc import Sequence

import msgspec

from dragoman.core.errors import BadRequest
from dragoman.core.limits import check_sampling
from dragoman.core.request import (
    AnswerFormat,
    ChatPrompt,
    GenerationRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    Verbosity,
)
from dragoman.dialects.http.codec import DecodeContext, DecodedRequest
from dragoman.dialects.http.validation import (
    FieldPath,
    InvalidFields,
    MissingField,
    UnsupportedField,
    UnsupportedFields,
    Violation,
    decode_body,
    raise_violations,
)
from dragoman.dialects.openai.codec import priority_of, reasoning_effort, verbosity
from dragoman.dialects.openai.parse import (
    check_chat_template,
    check_schema,
    omission_arguments,
    omits_tool_images,
    sampling_params,
    served_model,
)
from dragoman.dialects.responses import wire
from dragoman.dialects.responses.items import Conversation, Item, declared_tools, input_items, kind_of
from dragoman.dialects.responses.reasoning import ReasoningCipher
from dragoman.dialects.responses.response_builder import ResponsesBuilder
from dragoman.dialects.responses.tools import SentTools, parse_tools, tool_options

INCLUDE_LOGPROBS = "message.output_text.logprobs"
INCLUDE_REASONING = "reasoning.encrypted_content"

FIELD_NAMES = {
    "prompt": "input",
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "logprobs": "top_logprobs",
}

_UNSUPPORTED = UnsupportedFields(
    {
        "prompt": UnsupportedField("templates of prompts are not stored here; send input"),
        "conversation": UnsupportedField("conversations are not stored here; use previous_response_id"),
    }
)

_STORED = "stored"
_TAKES_VERBOSITY = "takes_verbosity"


class PromptParts(msgspec.Struct, frozen=True, kw_only=True):
    """What a prompt is made of, apart from the responses before it."""

    sent: wire.PromptFields
    items: list[Item]
    tools: SentTools
    cipher: ReasoningCipher
    fetches_images: bool = False
    """Whether images at http(s) addresses are taken."""
    omits_tool_images: bool = False
    """Whether a text stands for images in results of tools."""
    verbosity: Verbosity | None = None

    def with_items(self, items: list[Item]) -> "PromptParts":
        """Return the same with other items."""
        return msgspec.structs.replace(self, items=items)

    def prompt(self, history: Sequence[Item] = ()) -> tuple[ChatPrompt, list[str]]:
        """Return the prompt after earlier items, and the kinds of the items that were skipped. Raises BadRequest."""
        conversation = Conversation(
            self.cipher.unseal, fetches_images=self.fetches_images, omits_tool_images=self.omits_tool_images
        )
        if self.sent.instructions:
            conversation.add_instructions(self.sent.instructions)
        for index, item in enumerate(history):
            conversation.add(item, ("previous_response_id", index))
        for index, item in enumerate(self.items):
            conversation.add(item, ("input", index))
        options, _ = tool_options(self.tools, self.sent.tool_choice, parallel=self.sent.parallel_tool_calls)
        reasoning = self.sent.reasoning
        prompt = ChatPrompt(
            messages=conversation.messages(),
            tools=options,
            reasoning_effort=reasoning_effort(None if reasoning is None else reasoning.effort),
            verbosity=self.verbosity,
            template_arguments=self.sent.chat_template_kwargs,
        )
        return prompt, [*self.tools.skipped, *conversation.skipped]


class DecodedResponse(DecodedRequest, frozen=True, kw_only=True):
    """A request for a response."""

    parts: PromptParts
    skipped: list[str]
    """The kinds of the items and tools that were skipped."""
    needs_stored_items: bool
    """Whether the prompt lacks what only the database has, and so do `requests` until it is added."""
    sent: wire.ResponseRequest
    response: ResponsesBuilder
    """The same as `builder`."""


def decode_response(body: bytes, context: DecodeContext) -> DecodedResponse:
    """Decode a request for a response. Raises BadRequest."""
    sent = decode_body(body, wire.ResponseRequest)
    if context.find_model is not None:
        _UNSUPPORTED.check(body)
    if sent.background and not sent.store:
        raise BadRequest("A response in the background must be stored: background needs store to be true", "background")
    parts = msgspec.structs.replace(prompt_parts(sent, context), verbosity=_verbosity(sent, context))
    # What only the database has is added before admission.
    own_items = [item for item in parts.items if kind_of(item) != "item_reference"]
    prompt, skipped = parts.with_items(own_items).prompt()
    has_logprobs = INCLUDE_LOGPROBS in sent.include
    request = GenerationRequest(
        model=sent.model,
        prompt=prompt,
        sampling=check_sampling(
            sampling_params(
                sent,
                max_tokens=sent.max_output_tokens,
                temperature=sent.temperature,
                top_p=sent.top_p,
                presence_penalty=sent.presence_penalty,
                frequency_penalty=sent.frequency_penalty,
            )
        ),
        priority=priority_of(sent.service_tier),
        response_format=_answer_format(sent.text.format),
        logprobs=sent.top_logprobs if has_logprobs else None,
        cache_salt=sent.cache_salt or "",
        affinity=sent.prompt_cache_key or sent.user or "",
    )
    builder = ResponsesBuilder(
        _head(sent, parts.tools, context),
        parts.tools.origins,
        include_logprobs=has_logprobs,
        seal=parts.cipher.seal if INCLUDE_REASONING in sent.include and parts.cipher.has_key else None,
    )
    return DecodedResponse(
        requests=[request],
        stream=sent.stream,
        builder=builder,
        response=builder,
        field_names=FIELD_NAMES,
        extra_arguments={
            **({_STORED: "1"} if builder.head.store else {}),
            **omission_arguments(parts.omits_tool_images),
            **({} if parts.verbosity is None else {_TAKES_VERBOSITY: "1"}),
        },
        priority=request.priority,
        in_background=sent.background,
        parts=parts,
        skipped=skipped,
        needs_stored_items=sent.previous_response_id is not None or len(own_items) < len(parts.items),
        sent=sent,
    )


def decode_prompt(body: bytes, context: DecodeContext) -> PromptParts:
    """Decode a request whose tokens are counted. Raises BadRequest."""
    return prompt_parts(decode_body(body, wire.PromptFields), context)


def prompt_parts(sent: wire.PromptFields, context: DecodeContext) -> PromptParts:
    """Return what the prompt is made of. Raises BadRequest."""
    violations: list[Violation] = []
    check_chat_template(None, sent.chat_template_kwargs, violations)
    if sent.input is None and sent.previous_response_id is None:
        violations.append(Violation(("input",), MissingField()))
    raise_violations(violations)
    items = input_items(sent.input or [])
    listed: list[tuple[FieldPath, Item]] = [(("tools", index), tool) for index, tool in enumerate(sent.tools)]
    declared: list[tuple[FieldPath, Item]] = [(("input",), tool) for tool in declared_tools(items)]
    tools = parse_tools([*listed, *declared])
    return PromptParts(
        sent=sent,
        items=items,
        tools=tools,
        cipher=ReasoningCipher(context.reasoning_key),
        fetches_images=context.fetches_images,
        omits_tool_images=omits_tool_images(served_model(sent.model, context), context),
    )


def _verbosity(sent: wire.ResponseRequest, context: DecodeContext) -> Verbosity | None:
    """Return how much the model should write; None for one that has no such control."""
    served = served_model(sent.model, context)
    is_taken = _TAKES_VERBOSITY in context.arguments if served is None else served.takes_verbosity
    return verbosity(sent.text.verbosity or None) if is_taken else None


def _answer_format(sent: wire.TextFormat) -> AnswerFormat | None:
    match sent.type:
        case "json_object":
            return JsonObjectFormat()
        case "json_schema":
            if sent.schema is None:
                raise InvalidFields([Violation(("text", "format", "schema"), MissingField())])
            violations: list[Violation] = []
            check_schema(sent.schema, ("text", "format", "schema"), violations)
            raise_violations(violations)
            return JsonSchemaFormat(sent.schema, bool(sent.strict))
    return None


def _head(sent: wire.ResponseRequest, tools: SentTools, context: DecodeContext) -> wire.ResponseBody:
    """Return the response before it has begun."""
    _, choice = tool_options(tools, sent.tool_choice, parallel=sent.parallel_tool_calls)
    return wire.ResponseBody(
        id=f"resp_{context.answer_id}",
        created_at=context.created,
        status="queued" if sent.background else "in_progress",
        background=sent.background,
        model=sent.model,
        previous_response_id=sent.previous_response_id,
        instructions=sent.instructions,
        tools=tools.echoed,
        tool_choice=choice,
        truncation=sent.truncation,
        parallel_tool_calls=sent.parallel_tool_calls,
        text=sent.text,
        temperature=sent.temperature,
        top_p=sent.top_p,
        presence_penalty=sent.presence_penalty,
        frequency_penalty=sent.frequency_penalty,
        top_logprobs=sent.top_logprobs,
        reasoning=sent.reasoning,
        max_output_tokens=sent.max_output_tokens,
        max_tool_calls=sent.max_tool_calls,
        store=_is_stored(sent, context),
        metadata=sent.metadata,
        safety_identifier=sent.safety_identifier,
        prompt_cache_key=sent.prompt_cache_key,
        user=sent.user,
    )


def _is_stored(sent: wire.ResponseRequest, context: DecodeContext) -> bool:
    """Whether the response is stored; of a restored request, whether the answer said so."""
    can_store = context.stores_responses if context.find_model is not None else _STORED in context.arguments
    return sent.store and can_store
