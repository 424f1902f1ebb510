"""Chat templates that come with a request, where a dialect takes them."""

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dragoman.dialects.http.validation import InvalidValue, Violation

MAX_TEMPLATE_BYTES = 64 * 1024
"""Of a template, and of the variables for it as JSON."""

RESERVED_VARIABLES = ("messages", "bos_token", "eos_token")
"""What a template is always given by the server."""

Template = Annotated[str, Meta(max_length=MAX_TEMPLATE_BYTES)]
"""Jinja source."""

TemplateArguments = dict[str, Any]
"""Further variables for the template."""


def validate_template(template: str | None, arguments: TemplateArguments | None) -> Iterator[Violation]:
    """What the types of `chat_template` and `chat_template_kwargs` cannot say."""
    if template and len(template.encode()) > MAX_TEMPLATE_BYTES:
        yield _invalid("chat_template", f"The template has more than {MAX_TEMPLATE_BYTES} bytes")
    if not arguments:
        return
    if len(msgspec.json.encode(arguments)) > MAX_TEMPLATE_BYTES:
        yield _invalid("chat_template_kwargs", f"The template's variables have more than {MAX_TEMPLATE_BYTES} bytes")
    for name in RESERVED_VARIABLES:
        if name in arguments:
            yield Violation(("chat_template_kwargs", name), InvalidValue(f"The variable '{name}' is the server's own"))


def _invalid(field: str, message: str) -> Violation:
    return Violation((field,), InvalidValue(message))
