"""Request fields of OpenAI's API: validated and converted to core's terms in one pass.

A function that takes `violations` adds to it what the field's type cannot express. What it returns is of use only if
it added none.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, cast

import msgspec

from dragoman.core.errors import BadRequest
from dragoman.core.limits import MAX_SEED, MAX_TOKENS
from dragoman.core.models import ServedModel
from dragoman.core.request import (
    REMOTE_SCHEMES,
    AnswerFormat,
    ImagePart,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    Part,
    SamplingParams,
    TextPart,
    TextPrompt,
    TokenPrompt,
    Tool,
    ToolCall,
    ToolOptions,
)
from dragoman.dialects.http.codec import DecodeContext
from dragoman.dialects.http.validation import FieldPath, InvalidValue, MissingField, Violation
from dragoman.dialects.openai.sampling import SamplingExtensions
from dragoman.dialects.openai.wire import (
    MAX_TEMPLATE_BYTES,
    AllowedTools,
    ChatMessage,
    ContentPart,
    FunctionDefinition,
    NamedTool,
    ResponseFormat,
    TemplateArguments,
    TextCompletionPrompt,
    ToolChoice,
    ToolDefinition,
)

MAX_PROMPTS = 128
"""Prompts one text completion may hold."""

MAX_TOOLS_BYTES = 1024 * 1024
"""Size of the schemas of all tools together, as the engine receives them."""

MAX_SCHEMA_LEVELS = 500
"""Arrays and objects of a schema within each other."""

DATA_SCHEMES = ("data:image/",)
"""How addresses begin that hold an image themselves."""

OMITTED_IMAGE = "[image]"
"""What stands in a tool's result for an image that is left out."""

_OMITS_IMAGES = "omits_images"

RESERVED_VARIABLES = ("messages", "bos_token", "eos_token")
"""Variables that the server itself passes to every template."""


def served_model(name: str, context: DecodeContext) -> ServedModel | None:
    """Return the model with this name or alias; None: it is not served, or the request is a restored one."""
    return None if context.find_model is None else context.find_model(name)


def image_schemes(served: ServedModel | None, context: DecodeContext) -> Sequence[str]:
    """Return how the addresses of images may begin in messages to the model; none: it takes text only.

    A restored request was admitted with what it has.
    """
    if context.find_model is not None and (served is None or not served.takes_images):
        return ()
    return (*DATA_SCHEMES, *REMOTE_SCHEMES) if context.fetches_images else DATA_SCHEMES


def omits_tool_images(served: ServedModel | None, context: DecodeContext) -> bool:
    """Whether images in results of tools are left out, since the model takes text only.

    They would end a conversation in which a tool returned one. The client's own images are refused instead.
    """
    if context.find_model is None:
        return _OMITS_IMAGES in context.arguments
    return served is None or not served.takes_images


def omission_arguments(omits: bool) -> dict[str, str]:
    """Return the arguments that restore it when the body is decoded again."""
    return {_OMITS_IMAGES: "1"} if omits else {}


def parse_messages(
    messages: Iterable[ChatMessage], violations: list[Violation], *, image_schemes: Sequence[str] = ()
) -> tuple[Message, ...]:
    """Convert a conversation, with images whose addresses begin with one of the schemes."""
    return tuple([_parse_message(index, message, violations, image_schemes) for index, message in enumerate(messages)])


def _parse_message(
    index: int, message: ChatMessage, violations: list[Violation], image_schemes: Sequence[str]
) -> Message:
    is_assistant = message.role == "assistant"
    calls: tuple[ToolCall, ...] = ()
    if message.tool_calls:
        calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in message.tool_calls)
        if not is_assistant:
            problem = InvalidValue("Only an assistant's message has tool calls")
            violations.append(Violation(("messages", index, "tool_calls"), problem))
    content: str | tuple[Part, ...]
    if isinstance(message.content, str):
        content = message.content
    elif message.content is None and message.refusal is not None and is_assistant:
        content = message.refusal
    else:
        path = ("messages", index, "content")
        if message.content is None and not calls:
            violations.append(Violation(path, MissingField()))
        schemes = () if is_assistant else image_schemes
        content = _parse_parts(message.content or (), path, violations, schemes, is_assistants=is_assistant)
    return Message(
        role="system" if message.role == "developer" else message.role,
        content=content,
        name=message.name,
        tool_calls=calls,
        tool_call_id=message.tool_call_id,
        reasoning=message.reasoning_content if message.reasoning is None else message.reasoning,
    )


def _parse_parts(
    parts: Sequence[ContentPart],
    path: FieldPath,
    violations: list[Violation],
    image_schemes: Sequence[str],
    *,
    is_assistants: bool,
) -> str | tuple[Part, ...]:
    for index, part in enumerate(parts):
        if part.type == "image_url" and image_schemes:
            _check_image(part, (*path, index), violations, image_schemes)
        elif part.type == "refusal" and is_assistants:
            if part.refusal is None:
                violations.append(Violation((*path, index, "refusal"), MissingField()))
        elif part.type != "text":
            taker = "An assistant's message" if is_assistants else "This model"
            problem = InvalidValue(f"{taker} takes text only, got type '{part.type[:40]}'")
            violations.append(Violation((*path, index, "type"), problem))
        elif part.text is None:
            violations.append(Violation((*path, index, "text"), MissingField()))
    if not any(part.image_url for part in parts):
        return "".join(map(_part_text, parts))
    return tuple(
        TextPart(_part_text(part))
        if part.image_url is None
        else ImagePart(part.image_url.url, image_detail(part.image_url.detail))
        for part in parts
    )


def _part_text(part: ContentPart) -> str:
    return (part.refusal if part.type == "refusal" else part.text) or ""


def image_detail(sent: object) -> Literal["low", "high", "auto"] | None:
    """Convert how closely a model should look at an image; None: as it does by default. `original` is `high`."""
    match sent:
        case "low" | "high" | "auto":
            return sent
        case "original":
            return "high"
    return None


def _check_image(part: ContentPart, path: FieldPath, violations: list[Violation], image_schemes: Sequence[str]) -> None:
    if part.image_url is None:
        violations.append(Violation((*path, "image_url"), MissingField()))
    elif not part.image_url.url.startswith(tuple(image_schemes)):
        problem = InvalidValue(
            "Images are taken as data: and http(s) URLs only"
            if REMOTE_SCHEMES[0] in image_schemes
            else "Images are taken as data: URLs only, since this server fetches none"
        )
        violations.append(Violation((*path, "image_url", "url"), problem))


def parse_tools(
    tools: Sequence[ToolDefinition],
    choice: ToolChoice | AllowedTools | None,
    violations: list[Violation],
    *,
    parallel: bool = True,
) -> ToolOptions | None:
    """Convert the tools and their choice; None where no tool may be called."""
    if not tools and choice is None:
        return None
    names: set[str] = set()
    size = 0
    for index, tool in enumerate(tools):
        function, path = tool.function, ("tools", index, "function")
        if function.name in names:
            problem = InvalidValue(f"Names of tools must be unique, '{function.name}' is there twice")
            violations.append(Violation((*path, "name"), problem))
        names.add(function.name)
        size += check_schema(function.parameters, (*path, "parameters"), violations)
    if size > MAX_TOOLS_BYTES:
        problem = InvalidValue(f"The tools' parameters have more than {MAX_TOOLS_BYTES} bytes together")
        violations.append(Violation(("tools",), problem))
    if choice == "required" and not tools:
        problem = InvalidValue("tool_choice 'required' needs tools to choose from")
        violations.append(Violation(("tool_choice",), problem))
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        problem = InvalidValue(f"None of the tools is called '{choice.function.name[:64]}'")
        violations.append(Violation(("tool_choice", "function", "name"), problem))
    if isinstance(choice, AllowedTools):
        _check_allowed_tools(choice, names, violations)
    if not tools or choice == "none":
        return None
    if isinstance(choice, AllowedTools):
        allowed: tuple[str, ...] | None = tuple(tool.function.name for tool in choice.tools)
        choice = choice.mode
    else:
        allowed = None
    return ToolOptions(
        tools=tuple(_to_core_tool(tool.function) for tool in tools),
        choice="named" if isinstance(choice, NamedTool) else choice or "auto",
        name=choice.function.name if isinstance(choice, NamedTool) else None,
        parallel=parallel,
        allowed=allowed,
    )


def _check_allowed_tools(choice: AllowedTools, names: set[str], violations: list[Violation]) -> None:
    for index, tool in enumerate(choice.tools):
        if tool.function.name not in names:
            problem = InvalidValue(f"None of the tools is called '{tool.function.name[:64]}'")
            violations.append(Violation(("tool_choice", "allowed_tools", "tools", index, "function", "name"), problem))


def _to_core_tool(function: FunctionDefinition) -> Tool:
    return Tool(function.name, function.description, function.parameters, function.strict)


def parse_response_format(sent: ResponseFormat | None, violations: list[Violation]) -> AnswerFormat | None:
    """Convert `response_format`; None: any text."""
    if sent is None or sent.type == "text":
        return None
    if sent.schema is not None and sent.json_schema is None:
        check_schema(sent.schema, ("response_format", "schema"), violations)
        return JsonSchemaFormat(sent.schema, strict=True)
    if sent.type == "json_object":
        return JsonObjectFormat()
    if sent.json_schema is None:
        violations.append(Violation(("response_format", "json_schema"), MissingField()))
        return None
    check_schema(sent.json_schema.schema, ("response_format", "json_schema", "schema"), violations)
    return JsonSchemaFormat(sent.json_schema.schema, sent.json_schema.strict)


def check_schema(schema: object, path: FieldPath, violations: list[Violation], what: str = "a schema") -> int:
    """Check that an engine can receive any JSON, such as a schema, and return its size in bytes. It checks the rest.

    JSON has integers that an engine has not, and levels that exceed the interpreter's stack elsewhere. `what` it is.
    """
    try:
        size = len(msgspec.msgpack.encode(schema))
    except OverflowError:
        violations.append(Violation(path, InvalidValue(f"The integers of {what} must fit into 64 bits")))
        return 0
    except RecursionError:
        size = MAX_SCHEMA_LEVELS + 1
    if size > MAX_SCHEMA_LEVELS and _has_more_levels(schema, MAX_SCHEMA_LEVELS):
        violations.append(Violation(path, InvalidValue(f"{what.capitalize()} has at most {MAX_SCHEMA_LEVELS} levels")))
    return size


def _has_more_levels(value: object, levels: int) -> bool:
    """Whether arrays and objects are nested more than `levels` deep."""
    nested = [value]
    for _ in range(levels + 1):
        nested = [
            item
            for outer in nested
            for item in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
        ]
        if not nested:
            return False
    return True


def check_chat_template(template: str | None, arguments: TemplateArguments | None, violations: list[Violation]) -> None:
    """Check a template that came with the request, and the variables for it."""
    if template and len(template.encode()) > MAX_TEMPLATE_BYTES:
        problem = InvalidValue(f"The template has more than {MAX_TEMPLATE_BYTES} bytes")
        violations.append(Violation(("chat_template",), problem))
    if not arguments:
        return
    for name, value in arguments.items():
        check_schema(value, ("chat_template_kwargs", name), violations, "a variable")
    if not violations and len(msgspec.json.encode(arguments)) > MAX_TEMPLATE_BYTES:
        problem = InvalidValue(f"The template's variables have more than {MAX_TEMPLATE_BYTES} bytes")
        violations.append(Violation(("chat_template_kwargs",), problem))
    for name in RESERVED_VARIABLES:
        if name in arguments:
            problem = InvalidValue(f"The variable '{name}' is the server's own")
            violations.append(Violation(("chat_template_kwargs", name), problem))


def parse_prompts(
    prompt: TextCompletionPrompt,
    *,
    add_special_tokens: bool = True,
    parameter: str = "prompt",
    max_prompts: int = MAX_PROMPTS,
) -> list[TextPrompt | TokenPrompt]:
    """Convert one or several prompts, which the field `parameter` holds. Raises BadRequest."""
    if isinstance(prompt, str):
        return [TextPrompt(prompt, add_special_tokens=add_special_tokens)]
    if not prompt:
        raise BadRequest(f"{parameter} must hold at least one prompt", parameter)
    if all(isinstance(item, int) for item in prompt):
        return [_token_prompt(cast("list[int]", prompt), parameter)]
    if len(prompt) > max_prompts:
        raise BadRequest(f"{parameter} takes at most {max_prompts} prompts, got {len(prompt)}", parameter)
    if all(isinstance(item, str) for item in prompt):
        return [TextPrompt(text, add_special_tokens=add_special_tokens) for text in cast("list[str]", prompt)]
    if all(isinstance(item, list) for item in prompt):
        return [_token_prompt(token_ids, parameter) for token_ids in cast("list[list[int]]", prompt)]
    raise BadRequest(
        f"{parameter} must be a string, a list of strings, a list of token ids or a list of lists of them", parameter
    )


def stop_strings(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Convert one stop string or several."""
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def token_biases(sent: dict[str, float]) -> dict[int, float]:
    """Convert `logit_bias`. Raises BadRequest for a key that is no token id."""
    for token in sent:
        if not is_token_id(token):
            raise BadRequest(f"logit_bias must have token ids as keys, got '{token[:40]}'", "logit_bias")
    return {int(token): bias for token, bias in sent.items()}


def is_token_id(key: str) -> bool:
    """Whether a key of logit_bias can be a token id."""
    return key.isascii() and key.isdecimal() and len(key) < 10


def sampling_params(
    sent: SamplingExtensions,
    *,
    max_tokens: int | None,
    temperature: float,
    top_p: float,
    presence_penalty: float,
    frequency_penalty: float,
) -> SamplingParams:
    """Convert OpenAI's parameters, and those that its API does not have. Raises BadRequest."""
    if sent.seed is not None and not -(2**63) <= sent.seed <= MAX_SEED:
        raise BadRequest(f"seed must be an integer of at most 64 bits, got {str(sent.seed)[:40]}", "seed")
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        min_tokens=sent.min_tokens,
        top_k=sent.top_k,
        min_p=sent.min_p,
        repetition_penalty=sent.repetition_penalty,
        logit_bias=token_biases(sent.logit_bias) if sent.logit_bias else {},
        seed=None if sent.seed is None else sent.seed & MAX_SEED,
        stop=stop_strings(sent.stop),
        stop_token_ids=tuple(sent.stop_token_ids) if sent.stop_token_ids else (),
        ignore_eos=sent.ignore_eos,
    )


def _token_prompt(token_ids: Sequence[int], parameter: str) -> TokenPrompt:
    for token in token_ids:
        if not 0 <= token <= MAX_TOKENS:
            raise BadRequest(f"{parameter} must hold token ids, got {str(token)[:40]}", parameter)
    return TokenPrompt(tuple(token_ids))
