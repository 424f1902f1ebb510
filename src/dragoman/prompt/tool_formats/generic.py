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
from dragoman.prompt.tool_formats.format import ToolFormat, calls_as_text, results_as_text, tool_fields, write_calls

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

{several} {results} \
When no function helps, answer the user directly."""

_SEVERAL = "Write one such block for each call if several are needed."
_ONE = "Call no more than one function at a time."

_NATIVE_FUNCTIONS = """You may call these functions to help the user:
{tools}

To call functions, write their names and their arguments as JSON in this form, and nothing after it:
{example}

{several} When no function helps, answer the user directly."""

_SEVERAL_NATIVE = "You may call several functions at once."

_RESULT = "<tool_response>\n{}\n</tool_response>"

_RESULTS = "What a function returns comes back between <tool_response> tags."


def as_text(known: ToolFormat) -> ToolFormat:
    """Return the format for templates that write no calls, or others: all that it needs is written as text."""
    if not known.template_writes_tools:
        return known

    def adapt(messages: Sequence[Message], tools: ToolOptions | None) -> list[Message]:
        return _as_text(known.adapt(messages, tools), tools, known.markup)

    return ToolFormat(markup=known.markup, adapt=adapt, template_writes_tools=False)


def with_written_calls(known: ToolFormat, *, marks_results: bool) -> ToolFormat:
    """Return the format for templates that leave earlier calls out, and do not mark results either.

    Then results stand between the tags of this format.
    """
    if known.writes_calls_as_text:
        return known

    def adapt(messages: Sequence[Message], tools: ToolOptions | None) -> list[Message]:
        adapted = calls_as_text(known.markup, "\n")(known.adapt(messages, tools), tools)
        return adapted if marks_results else results_as_text(adapted, _RESULT)

    return msgspec.structs.replace(known, adapt=adapt, writes_calls_as_text=True)


def _as_text(messages: Sequence[Message], tools: ToolOptions | None, markup: ToolCallMarkup = MARKUP) -> list[Message]:
    """Write tools, calls and results into messages of system, user and assistant. Unchanged without tools."""
    with_calls = calls_as_text(markup, "\n")(messages, tools)
    adapted = results_as_text(with_calls, _RESULT)
    if tools is None:
        return adapted
    if markup == MARKUP:
        return _with_system(adapted, _instruction(tools))
    return _with_system(adapted, f"{_native_instruction(tools, markup)} {_RESULTS}")


def with_tools(messages: Sequence[Message], tools: ToolOptions | None, markup: ToolCallMarkup) -> list[Message]:
    """Describe the tools in the system message, for templates that write calls but not the tools themselves."""
    return list(messages) if tools is None else _with_system(messages, _native_instruction(tools, markup))


def _native_instruction(tools: ToolOptions, markup: ToolCallMarkup) -> str:
    example = write_calls(markup, [ToolCall("0", "name_of_the_function", '{"name_of_an_argument": "its value"}')])
    several = _SEVERAL_NATIVE if tools.allows_multiple_calls else _ONE
    return _NATIVE_FUNCTIONS.format(tools=_described(tools), example=example, several=several)


def _with_system(messages: Sequence[Message], text: str) -> list[Message]:
    """Add a text to the system message at the beginning, or put one there."""
    if messages and messages[0].role == "system":
        first = msgspec.structs.replace(messages[0], content=f"{messages[0].text}\n\n{text}")
        return [first, *messages[1:]]
    return [Message(role="system", content=text), *messages]


def _instruction(tools: ToolOptions) -> str:
    several = _SEVERAL if tools.allows_multiple_calls else _ONE
    return _FUNCTIONS.format(tools=_described(tools), several=several, results=_RESULTS)


def _described(tools: ToolOptions) -> str:
    """Return the functions as lines of JSON."""
    return "\n".join(to_json(tool_fields(tool)) for tool in tools.tools)


FORMAT = ToolFormat(
    markup=MARKUP,
    adapt=_as_text,
    template_writes_tools=False,
)
