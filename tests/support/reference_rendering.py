"""Chat templates as Hugging Face's transformers render them, with Jinja2 in its settings.

They are those of `transformers.utils.chat_template_utils`. Transformers passes messages, tools, documents and
add_generation_prompt to every template, the latter as null where there are none, and the tokenizer's special tokens.
"""

import functools
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment

from dragoman.core.request import ChatPrompt, Message, ToolCall

BOS, EOS = "<s>", "</s>"

_MARK = "\U000f1234"
"""Stands at the end of a message that is continued."""


class ReferenceRefusal(Exception):
    """The template does not render the conversation."""


class _Generation(jinja2.ext.Extension):
    tags = {"generation"}  # noqa: RUF012 (Jinja's own declaration)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _environment(kind: type[SandboxedEnvironment], *, encodes_filters: bool) -> SandboxedEnvironment:
    environment = kind(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = functools.partial(_tojson, default=list) if encodes_filters else _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


class ReferenceTemplate:
    """A template as transformers renders it."""

    def __init__(
        self,
        source: str,
        *,
        changes_lists: bool = False,
        encodes_filters: bool = False,
        text_arguments: bool = False,
        null_content: bool = False,
    ) -> None:
        """`changes_lists`: let it append to lists, which transformers refuses.

        `encodes_filters`: let it encode what a filter yields, which transformers refuses.
        `text_arguments`: give a call's arguments as text. `null_content`: give null instead of no text beside a call.
        """
        kind = SandboxedEnvironment if changes_lists else ImmutableSandboxedEnvironment
        self._template = _environment(kind, encodes_filters=encodes_filters).from_string(source)
        self._text_arguments = text_arguments
        self._null_content = null_content
        self._reasoning_field = next(
            (field for field in ("reasoning_content", "thinking", "reasoning") if f".{field}" in source),
            "reasoning_content",
        )
        self._reasoning_in_blocks = "block['thinking']" in source

    def render(self, prompt: ChatPrompt, **variables: Any) -> str:
        """Render with these variables instead of or beside transformers' own. Raises ReferenceRefusal."""
        messages = self._messages(prompt.messages)
        if prompt.continue_final_message:
            messages[-1]["content"] += _MARK
        own: dict[str, Any] = {
            "tools": None if prompt.tools is None else [_tool(tool) for tool in prompt.tools.tools],
            "documents": list(prompt.documents) or None,
            "add_generation_prompt": prompt.add_generation_prompt,
            "bos_token": BOS,
            "eos_token": EOS,
        }
        try:
            text = self._template.render(messages=messages, **(own | variables))
        except (jinja2.TemplateError, TypeError) as error:
            raise ReferenceRefusal(str(error)) from error
        return text.rpartition(_MARK)[0] if prompt.continue_final_message else text

    def _messages(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Return what a user of transformers writes, who knows the called function's name of each result."""
        names = {call.id: call.name for message in messages for call in message.tool_calls}
        written = []
        for message in messages:
            fields: dict[str, Any] = {"role": message.role, "content": message.content}
            if message.tool_calls:
                fields["tool_calls"] = [self._call(call) for call in message.tool_calls]
                fields["content"] = message.content or (None if self._null_content else "")
            if message.tool_call_id is not None:
                fields["tool_call_id"] = message.tool_call_id
            name = message.name or names.get(message.tool_call_id or "")
            if name is not None:
                fields["name"] = name
            if message.reasoning is not None and self._reasoning_in_blocks:
                text = [{"type": "text", "text": message.content}] if message.content else []
                fields["content"] = [{"type": "thinking", "thinking": message.reasoning}, *text]
            elif message.reasoning is not None:
                fields[self._reasoning_field] = message.reasoning
            written.append(fields)
        return written

    def _call(self, call: ToolCall) -> dict[str, Any]:
        arguments = call.arguments if self._text_arguments else json.loads(call.arguments)
        return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _tool(tool: Any) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}
