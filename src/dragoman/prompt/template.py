"""A model's chat template, rendered in a sandbox: it comes from a file somebody downloaded."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dragoman.core.errors import BadRequest
from dragoman.core.request import Message

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""Used for a model that brings no template of its own, as llama.cpp does."""


class _Refusal(jinja2.TemplateError):
    """The template called raise_exception."""


class ChatTemplate:
    """Renders conversations as `tokenizer.apply_chat_template` of Hugging Face's transformers does."""

    def __init__(self, source: str | None, *, bos: str, eos: str) -> None:
        """`source` None: ChatML. A source that does not compile is reported by `render`, since other routes work."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _now
        self._environment = environment
        self._source = source or CHATML
        self._special_tokens = {"bos_token": bos, "eos_token": eos}
        self._template: jinja2.Template | None = None

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt, ready for the assistant's turn. Raises BadRequest when the template does not take the messages.

        A template that refuses a system message gets its text in front of the first user message instead.
        """
        try:
            return self._render(messages)
        except _Refusal as refusal:
            merged = _merge_system(messages)
            if merged == list(messages):
                raise BadRequest(
                    f"The model's chat template refuses these messages: {refusal}", "messages"
                ) from refusal
        try:
            return self._render(merged)
        except _Refusal as refusal:
            raise BadRequest(f"The model's chat template refuses these messages: {refusal}", "messages") from refusal

    def _render(self, messages: Sequence[Message]) -> str:
        try:
            if self._template is None:
                self._template = self._environment.from_string(self._source)
            return self._template.render(
                messages=[_fields(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self._special_tokens,
            )
        except _Refusal:
            raise
        except (
            jinja2.TemplateError,
            TypeError,
            ValueError,
            ArithmeticError,
            LookupError,
            AttributeError,
            RecursionError,
        ) as error:
            raise BadRequest(f"The model's chat template cannot be applied: {error}", "messages") from error


def _fields(message: Message) -> dict[str, str]:
    fields = {"role": message.role, "content": message.content}
    return fields if message.name is None else {**fields, "name": message.name}


def _merge_system(messages: Sequence[Message]) -> list[Message]:
    system = [message.content for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    first_user = next((index for index, message in enumerate(rest) if message.role == "user"), None)
    if not system or first_user is None:
        return list(messages)
    user = rest[first_user]
    rest[first_user] = Message("user", "\n\n".join([*system, user.content]), user.name)
    return rest


def _refuse(message: str) -> NoReturn:
    raise _Refusal(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja2's own filter, without escaping for HTML: a model reads it, not a browser."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(format: str) -> str:
    return datetime.now().strftime(format)
