"""The tool format of a family of chat templates."""

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from dragoman.core.request import Message, Tool, ToolCall, ToolOptions
from dragoman.output.markup import ID, INDEX, NAME, TYPE, ParameterMarkup, ToolCallMarkup
from dragoman.output.tool_call_parser import ToolCallSyntax
from dragoman.prompt.sandbox import TemplateRefusal, to_json

Adapt = Callable[[Sequence[Message], ToolOptions | None], list[Message]]


def _unchanged(messages: Sequence[Message], _tools: ToolOptions | None) -> list[Message]:
    return list(messages)


class ToolFormat(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A family of templates."""

    markup: ToolCallMarkup
    hints: tuple[str, ...] = ()
    """Texts of which one is in a template that does not write the calls of earlier turns, but is of this family."""
    contradictions: tuple[str, ...] = ()
    """Texts in templates that are of another family, whatever the hints."""
    adapt: Adapt = _unchanged
    """Adapts a conversation to the templates of this family."""
    adapt_parameters: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    """Adapts the schema of a function's parameters to them. None: it stays as it is."""
    template_writes_tools: bool = True
    """Whether the templates write calls and results; otherwise `adapt` writes them as text."""
    writes_calls_as_text: bool = False
    """Whether the templates write results, but leave calls out or quote their strings wrongly.

    Then `calls_as_text` writes them.
    """

    def called_names(self, tools: ToolOptions) -> tuple[str, ...] | None:
        """Return the functions that may be called, if only their names make a call."""
        return tuple(tool.name for tool in tools.callable_tools) if self.markup.trigger_has_name else None

    @functools.cached_property
    def syntax(self) -> ToolCallSyntax:
        """The markup, prepared for parsing answers. Takes a while, and a process needs few of the families."""
        return ToolCallSyntax(self.markup)


def write_calls(markup: ToolCallMarkup, calls: Iterable[ToolCall]) -> str:
    """Write calls as they stand in an answer."""
    written = (
        f"{markup.call_open}{_head(markup, call, index)}{_arguments(markup, call)}{markup.tail}{markup.call_close}"
        for index, call in enumerate(calls)
    )
    return f"{markup.section_open}{markup.separator.join(written)}{markup.section_close}"


def _head(markup: ToolCallMarkup, call: ToolCall, index: int) -> str:
    before, after = (
        text.replace(INDEX, str(index + markup.first_index)).replace(ID, call.id).replace(NAME, call.name)
        for text in (markup.head_before_name, markup.head_after_name)
    )
    return f"{before}{call.name}{after}"


def _arguments(markup: ToolCallMarkup, call: ToolCall) -> str:
    """Write arguments. Raises ValueError if they cannot be written."""
    text = call.arguments or "{}"
    syntax = markup.values or markup.elements
    if markup.parameters is None and syntax is None:
        return text
    arguments = _object_of(text) or {}
    if syntax is not None:
        return syntax.arguments(arguments)
    parameters = markup.parameters
    assert parameters is not None
    return "".join(_parameter(parameters, name, value) for name, value in arguments.items())


def _parameter(markup: ParameterMarkup, name: str, value: Any) -> str:
    is_string = isinstance(value, str)
    written = markup.string(value) if is_string else to_json(value)
    head = markup.head(name, is_string=is_string).replace(TYPE, type_of(value))
    return f"{head}{written}{markup.padding}{markup.close}{markup.after_close}"


def type_of(value: Any) -> str:
    """Return the type of a value in JSON's words."""
    match value:
        case bool():
            return "boolean"
        case None:
            return "null"
        case int() | float():
            return "number"
        case str():
            return "string"
        case dict():
            return "object"
    return "array"


def calls_as_text(markup: ToolCallMarkup, after_text: str = "") -> Adapt:
    """Return a function that writes the calls of messages at the end of their text, as they stand in answers.

    `after_text` stands between both. The function raises TemplateRefusal for arguments that cannot be written.
    """

    def with_written_calls(message: Message) -> Message:
        try:
            written = write_calls(markup, message.tool_calls)
        except ValueError as error:
            raise TemplateRefusal(str(error)) from error
        except RecursionError as error:
            raise TemplateRefusal("the arguments of a tool call are nested too deeply") from error
        content = f"{message.text}{after_text}{written}" if message.text else written
        return msgspec.structs.replace(message, content=content, tool_calls=())

    def adapt(messages: Sequence[Message], _tools: ToolOptions | None) -> list[Message]:
        return [with_written_calls(message) if message.tool_calls else message for message in messages]

    return adapt


def text_before_calls(messages: Sequence[Message], _tools: ToolOptions | None) -> list[Message]:
    """Give the text beside calls a message of its own, with the reasoning, for templates that would leave it out."""
    adapted: list[Message] = []
    for message in messages:
        if message.tool_calls and message.text:
            adapted.append(msgspec.structs.replace(message, tool_calls=()))
            message = msgspec.structs.replace(message, content="", reasoning=None)
        adapted.append(message)
    return adapted


def results_as_text(messages: Iterable[Message], pattern: str) -> list[Message]:
    """Write results as messages of the user, each as `pattern` with the result for {}.

    Consecutive ones, and a user's message before or after them, become one message, since many templates require user
    and assistant to alternate.
    """
    adapted: list[Message] = []
    was_result = False
    for message in messages:
        is_result = message.role == "tool"
        plain = Message(role="user", content=pattern.replace("{}", message.text)) if is_result else message
        if adapted and adapted[-1].role == plain.role == "user" and (is_result or was_result):
            plain = Message(role="user", content=f"{adapted.pop().text}\n{plain.text}", name=plain.name)
        adapted.append(plain)
        was_result = is_result
    return adapted


def with_function_names(messages: Sequence[Message]) -> list[Message]:
    """Give each result the name of the called function, which some templates write beside it."""
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    return [
        msgspec.structs.replace(message, name=names[message.tool_call_id])
        if message.name is None and message.tool_call_id in names
        else message
        for message in messages
    ]


def tool_fields(tool: Tool, known: ToolFormat | None = None) -> dict[str, Any]:
    """Return a function's fields, as templates of a format need them.

    A missing description becomes empty text, missing parameters an empty object.
    """
    parameters = {"type": "object", "properties": {}} if tool.parameters is None else tool.parameters
    if known is not None and known.adapt_parameters is not None and isinstance(parameters, dict):
        parameters = known.adapt_parameters(parameters)
    function = {"name": tool.name, "description": tool.description or "", "parameters": parameters}
    return {"type": "function", "function": function}


def call_fields(call: ToolCall, *, takes_objects: bool = True, takes_text: bool = True) -> dict[str, Any]:
    """Return a call's fields, as templates need them: with arguments that are an object or text.

    Arguments that are no object stay text. Where that cannot be written they are empty, since clients send an answer
    that was cut off within them back with every turn.
    """
    sent = call.arguments or "{}"
    arguments: dict[str, Any] | str = sent
    if takes_objects:
        found = _object_of(sent)
        arguments = found if found is not None else sent if takes_text else {}
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _object_of(text: str) -> dict[str, Any] | None:
    """Return arguments as an object; None: they are none."""
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return arguments if isinstance(arguments, dict) else None
