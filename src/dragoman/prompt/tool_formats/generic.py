"""The format for templates without tools, and for those that write tools in an unknown way.

The template receives a conversation of plain text, in which tools are written as in Hermes:

- the system message ends with the functions, as lines of JSON between <tools> tags, and instructions for calling them;
- an assistant's calls stand at the end of its message: <tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>;
- a result is a user's message: <tool_response>\\n...\\n</tool_response>. Consecutive results, and a user's message
  before or after them, become one message, since many templates require user and assistant to alternate.
"""

from collections.abc import Sequence

import msgspec

from dragoman.core.request import Message, ToolCall, ToolOptions
from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.sandbox import to_json
from dragoman.prompt.tool_formats import hermes
from dragoman.prompt.tool_formats.format import ToolFormat, tool_fields, write_calls

MARKUP = hermes.MARKUP

GENERIC_TAGS = ("<tools>", "</tools>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
"""The tags of this format, which are tokens in some vocabularies."""

_FUNCTIONS = """You may call these functions to help the user:
<tools>
{tools}
</tools>

To call a function, write its name and its arguments as JSON between these tags:
<tool_call>
{{"name": "name of the function", "arguments": {{"name of an argument": "its value"}}}}
</tool_call>

{several} What a function returns comes back between <tool_response> tags. \
When no function helps, answer the user directly."""

_SEVERAL = "Write one such block for each call if several are needed."
_ONE = "Call no more than one function at a time."

_NATIVE_FUNCTIONS = """You may call these functions to help the user:
{tools}

To call functions, write their names and their arguments as JSON in this form, and nothing after it:
{example}

{several} When no function helps, answer the user directly."""

_SEVERAL_NATIVE = "You may call several functions at once."


def _as_text(messages: Sequence[Message], tools: ToolOptions | None) -> list[Message]:
    """Write tools, calls and results into messages of system, user and assistant. Unchanged without tools."""
    adapted: list[Message] = []
    was_result = False
    for message in messages:
        is_result = message.role == "tool"
        plain = _plain(message)
        if adapted and adapted[-1].role == plain.role == "user" and (is_result or was_result):
            plain = Message(role="user", content=f"{adapted.pop().content}\n{plain.content}", name=plain.name)
        adapted.append(plain)
        was_result = is_result
    if tools is None:
        return adapted
    return _with_system(adapted, _instruction(tools))


def with_tools(messages: Sequence[Message], tools: ToolOptions | None, markup: ToolCallMarkup) -> list[Message]:
    """Describe the tools in the system message, for templates that write calls but not the tools themselves."""
    if tools is None:
        return list(messages)
    example = write_calls(markup, [ToolCall("0", "name_of_the_function", '{"name of an argument": "its value"}')])
    several = _SEVERAL_NATIVE if tools.allows_multiple_calls else _ONE
    return _with_system(messages, _NATIVE_FUNCTIONS.format(tools=_described(tools), example=example, several=several))


def _with_system(messages: Sequence[Message], text: str) -> list[Message]:
    """Add a text to the system message at the beginning, or put one there."""
    if messages and messages[0].role == "system":
        first = msgspec.structs.replace(messages[0], content=f"{messages[0].content}\n\n{text}")
        return [first, *messages[1:]]
    return [Message(role="system", content=text), *messages]


def _plain(message: Message) -> Message:
    if message.role == "tool":
        return Message(role="user", content=f"<tool_response>\n{message.content}\n</tool_response>")
    if not message.tool_calls:
        return message
    text = [message.content] if message.content else []
    content = "\n".join([*text, write_calls(MARKUP, message.tool_calls)])
    return Message(role=message.role, content=content, name=message.name, reasoning=message.reasoning)


def _instruction(tools: ToolOptions) -> str:
    return _FUNCTIONS.format(tools=_described(tools), several=_SEVERAL if tools.allows_multiple_calls else _ONE)


def _described(tools: ToolOptions) -> str:
    """Return the functions as lines of JSON."""
    return "\n".join(to_json(tool_fields(tool)) for tool in tools.tools)


FORMAT = ToolFormat(
    markup=MARKUP,
    adapt=_as_text,
    template_writes_tools=False,
)
