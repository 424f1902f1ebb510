"""Prompts that end inside the last message, so that the answer continues it.

A template writes the whole message and the end of its turn. So a private-use character is put behind the message's
content before it is rendered; the prompt ends where the character then is. Hugging Face's transformers does the same
with a text (`continue_final_message`), which a template that cuts texts may damage.
"""

from collections.abc import Sequence

import msgspec

from dragoman.core.request import Message
from dragoman.output.reasoning_parser import ReasoningSpec
from dragoman.prompt.sandbox import TemplateError

_CANDIDATES = range(0xF0000, 0xFFFFE)
"""Private-use characters."""


class MarkedConversation(msgspec.Struct, frozen=True):
    """A conversation whose last message has a mark behind its content."""

    messages: tuple[Message, ...]
    mark: str


def mark_end(messages: Sequence[Message], source: str) -> MarkedConversation:
    """Put a character that occurs neither in the messages nor in the template behind the last message's content."""
    texts = msgspec.msgpack.encode(messages) + source.encode()
    mark = next(character for code in _CANDIDATES if (character := chr(code)).encode() not in texts)
    last = messages[-1]
    return MarkedConversation((*messages[:-1], msgspec.structs.replace(last, content=last.text + mark)), mark)


def cut_at_end(rendered: str, mark: str) -> str:
    """Return the text in front of the mark. Raises TemplateError if the template left it out."""
    text, found, _ = rendered.rpartition(mark)
    if not found:
        raise TemplateError("it does not write the last message's end, which continue_final_message needs")
    return text


def continued_reasoning(content: str, spec: ReasoningSpec) -> ReasoningSpec | None:
    """Return the reasoning that the answer goes on with; None if the message's reasoning is closed or absent."""
    is_open = content.rfind(spec.opening) > content.rfind(spec.closing)
    return msgspec.structs.replace(spec, opened_by_prompt=True) if is_open else None
