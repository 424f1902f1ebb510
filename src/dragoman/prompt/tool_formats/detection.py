"""Finds the family of a chat template by rendering a conversation with a call, and comparing what it writes."""

import functools
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from dragoman.core.request import Message, Tool, ToolCall, ToolOptions
from dragoman.output.markup import ToolFormatName
from dragoman.prompt.sandbox import SandboxedTemplate, TemplateError, to_json
from dragoman.prompt.tool_formats import FORMATS
from dragoman.prompt.tool_formats.format import ToolFormat, write_calls

_NAME: Final = "find_weather_9"
_DESCRIPTION: Final = "Describes-the-weather-9"
_SYSTEM: Final = "Be-brief-9."
_LATE_SYSTEM: Final = "In-French-9."
_PLACE: Final = "north 9"
_ARGUMENTS: Final = {"days": 3, "place": _PLACE}  # some templates sort the names
_WRITTEN_ARGUMENTS: Final = to_json(_ARGUMENTS)
_CALL_ID: Final = "abcdefgh9"
_RESULT: Final = "Rain-9."
_TOOL: Final = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": _DESCRIPTION,
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "A place."},
                "days": {"type": "integer", "description": "A number."},
            },
            "required": ["place"],
        },
    },
}
XML_TOOLS: Final = "xml_tools"
"""SmolLM3's variable for the functions: https://huggingface.co/HuggingFaceTB/SmolLM3-3B#tool-calling."""

_MENTIONS_CALLS: Final = re.compile(r"\btool_calls\b|\btools\b")
_MENTIONS_TOOLS: Final = re.compile(r"\btools\b|\bfunctions\b")
_MAX_CHARACTERS: Final = 100_000
_SPACE: Final = re.compile(r"\s+")


class TemplateTraits(NamedTuple):
    """What a template does with tools and system messages."""

    tool_format: ToolFormatName
    shows_tools: bool
    """Whether it describes the tools to the model."""
    reads_tools_of_system: bool
    """Whether it does so only if a system message has them, as text in JSON."""
    shows_system: bool
    """Whether it writes a system message at the beginning."""
    shows_late_system: bool
    """Whether it writes a later one too, or refuses it, instead of leaving one of the two out."""
    writes_calls: bool
    """Whether it writes the calls of earlier turns, if it is of a family, or accepts no conversation with calls."""
    marks_results: bool
    """Whether it writes results otherwise than messages of the user."""
    takes_objects: bool
    """Whether it writes arguments that are an object; otherwise they must be text."""
    takes_text: bool
    """Whether it writes arguments that are text."""
    takes_empty_content: bool
    """Whether the content beside a call may be empty; otherwise it must be null, or an empty turn is written."""


class _Rendering(NamedTuple):
    """A conversation with a call as the template writes it; None: it does not accept that."""

    arguments: dict[str, Any] | str
    """Of the call, as they were given."""
    text: str | None
    """With empty content beside the call."""
    null_text: str | None
    """With null."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Both texts, where they are accepted."""
        return tuple(text for text in (self.text, self.null_text) if text is not None)


def detect_traits(source: str, template: SandboxedTemplate) -> TemplateTraits:
    """Find out what a template does with tools, by rendering a few short conversations.

    A template that fails to compile, or with every one of them, is generic.
    """
    beginning = [_message("system", _SYSTEM), _message("user", "Well?")]
    system_text = _render(template, beginning, None)
    late = [*beginning, _message("assistant", "Yes?"), _message("system", _LATE_SYSTEM), _message("user", "Well?")]
    late_text = _render(template, late, None)
    traits = TemplateTraits(
        "generic",
        shows_tools=False,
        reads_tools_of_system=False,
        shows_system=system_text is None or _SYSTEM in system_text,
        shows_late_system=late_text is None or (_SYSTEM in late_text and _LATE_SYSTEM in late_text),
        writes_calls=True,
        marks_results=True,
        takes_objects=True,
        takes_text=True,
        takes_empty_content=True,
    )
    if not _MENTIONS_CALLS.search(source):
        return traits
    renderings = list(_renderings(template))
    takes_objects, takes_text = _takes_objects(renderings), _takes_text(renderings)
    traits = traits._replace(
        takes_objects=takes_objects,
        takes_text=takes_text,
        takes_empty_content=_takes_empty_content(renderings, as_object=takes_objects),
    )
    texts = [text for rendering in renderings for text in rendering.texts]
    for text in texts:
        if (name := _family_of(text)) is not None:
            shows_tools = _DESCRIPTION in text or _shows_tools_if_adapted(template, FORMATS[name])
            return traits._replace(tool_format=name, shows_tools=shows_tools)
    hinted = next((name for name, known in FORMATS.items() if _is_hinted(known, source)), None)
    if hinted is None:
        return traits
    if not texts:
        return traits._replace(tool_format=hinted, shows_tools=_MENTIONS_TOOLS.search(source) is not None)
    shows_tools = any(_DESCRIPTION in text for text in texts)
    of_system = not shows_tools and _reads_tools_of_system(template)
    return traits._replace(
        tool_format=hinted,
        shows_tools=shows_tools or of_system,
        reads_tools_of_system=of_system,
        writes_calls=any(_PLACE in text for text in texts),
        marks_results=_marks_results(template),
    )


def _reads_tools_of_system(template: SandboxedTemplate) -> bool:
    """Whether the tools of a system message are written."""
    system = {**_message("system", _SYSTEM), "tools": to_json([_TOOL["function"]])}
    text = _render(template, [system, _message("user", "Well?")], None)
    return text is not None and _DESCRIPTION in text


def _marks_results(template: SandboxedTemplate) -> bool:
    """Whether a result is written otherwise than a message of the user."""
    before = [_message("user", "Well?"), _message("assistant", "Yes?")]
    result, answer = (_render(template, [*before, _message(role, _RESULT)], [_TOOL]) for role in ("tool", "user"))
    return result is None or result != answer or _RESULT not in result


def _takes_objects(renderings: Iterable[_Rendering]) -> bool:
    """Whether arguments need not be text: False if an object is refused or written in Python's syntax, and text not."""
    takes = {str: False, dict: False}
    for rendering in renderings:
        takes[type(rendering.arguments)] |= any(
            str(_ARGUMENTS) not in text and any(name in text for name in _ARGUMENTS) for text in rendering.texts
        )
    return takes[dict] or not takes[str]


def _takes_text(renderings: Iterable[_Rendering]) -> bool:
    """Whether arguments may be text."""
    return any(rendering.texts for rendering in renderings if isinstance(rendering.arguments, str))


def _takes_empty_content(renderings: Iterable[_Rendering], *, as_object: bool) -> bool:
    """Whether null content is refused, or gives no shorter text: null that is written gives a longer one.

    Not if the call is written beside null only.
    """
    for _, text, null_text in (r for r in renderings if r.texts and isinstance(r.arguments, dict) is as_object):
        written = [one is not None and _PLACE in one for one in (text, null_text)]
        if written == [False, True]:
            return False
        return null_text is None or (text is not None and len(text) <= len(null_text))
    return True


def write_alike(name: ToolFormatName, other: ToolFormatName) -> bool:
    """Whether two families' templates write the same call, apart from white space."""
    if name == other:
        return True
    _, calls = _written_calls()
    return name in calls and calls[name] == calls.get(other)


def _shows_tools_if_adapted(template: SandboxedTemplate, known: ToolFormat) -> bool:
    adapted = known.adapt([Message(role="user", content="Well?")], ToolOptions((Tool(_NAME),)))
    text = _render(template, [_message(message.role, message.text) for message in adapted], [_TOOL])
    return text is not None and _DESCRIPTION in text


def _is_hinted(known: ToolFormat, source: str) -> bool:
    return any(hint in source for hint in known.hints) and not any(text in source for text in known.contradictions)


def _family_of(rendered: str) -> ToolFormatName | None:
    """Return the family that writes the call as it stands in a text, apart from white space."""
    exact, calls = _written_calls()
    text = _SPACE.sub("", rendered)
    found = next((name for name, call in calls.items() if call in text), None)
    if found is not None:
        same = [name for name, call in calls.items() if call == calls[found]]  # they differ in white space
        return next((name for name in same if exact[name] in rendered), found)
    # Some templates write the id of a call after its arguments, which the models leave out.
    arguments = _SPACE.sub("", _WRITTEN_ARGUMENTS)
    with_id = next(
        (name for name, call in calls.items() if f"{call.partition(arguments)[0]}{arguments}," in text), None
    )
    return _family_without_quotes(text) if with_id is None else with_id


def _family_without_quotes(text: str) -> ToolFormatName | None:
    """Return the family whose templates quote the strings of a call wrongly."""
    for name, known in FORMATS.items():
        if known.writes_calls_as_text and known.markup.values is not None:
            call = _SPACE.sub("", _written_call(known))
            plain = text
            for quote in known.markup.values.quotes:
                call, plain = call.replace(quote, ""), plain.replace(quote, "")
            if call in plain:
                return name
    return None


def _written_call(known: ToolFormat) -> str:
    return write_calls(known.markup, [ToolCall(_CALL_ID, _NAME, _WRITTEN_ARGUMENTS)])


@functools.cache
def _written_calls() -> tuple[dict[ToolFormatName, str], dict[ToolFormatName, str]]:
    """Return the call as each family writes it, and the same without white space."""
    exact = {
        name: _written_call(known)
        for name, known in FORMATS.items()
        if known.template_writes_tools and not known.writes_calls_as_text
    }
    return exact, {name: _SPACE.sub("", call) for name, call in exact.items()}


def _renderings(template: SandboxedTemplate) -> Iterator[_Rendering]:
    arguments: tuple[dict[str, Any] | str, ...] = (_ARGUMENTS, _WRITTEN_ARGUMENTS)
    ids = (_CALL_ID, f"functions.{_NAME}:0")  # as Kimi K2 needs it
    for call_id, sent in itertools.product(ids, arguments):
        call = {"id": call_id, "type": "function", "function": {"name": _NAME, "arguments": sent}}
        conversations: Iterator[list[dict[str, Any]]] = (
            [
                _message("user", "Well?"),
                {"role": "assistant", "content": content, "tool_calls": [call]},
                {"role": "tool", "name": _NAME, "tool_call_id": call_id, "content": _RESULT},
            ]
            for content in ("", None)
        )
        yield _Rendering(sent, *(_render(template, messages, [_TOOL]) for messages in conversations))


def _message(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def _render(template: SandboxedTemplate, messages: list[dict[str, Any]], tools: list[Any] | None) -> str | None:
    variables = {"bos_token": "", "eos_token": "", "add_generation_prompt": True, "messages": messages, "tools": tools}
    if tools:
        variables[XML_TOOLS] = [tool["function"] for tool in tools]
    try:
        return template.render_with_null(variables, _MAX_CHARACTERS)
    except TemplateError:
        return None
