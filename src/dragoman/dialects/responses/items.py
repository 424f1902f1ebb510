"""The items of an input, as the messages of a conversation."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import msgspec

from dragoman.core.errors import BadRequest
from dragoman.core.request import REMOTE_SCHEMES, ImagePart, Message, Part, TextPart, ToolCall
from dragoman.dialects.http.validation import FieldPath, convert_value
from dragoman.dialects.openai.parse import DATA_SCHEMES, OMITTED_IMAGE, image_detail
from dragoman.dialects.responses.tools import CUSTOM_PARAMETER, qualified_name

Item = dict[str, Any]

_TEXT_PARTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")


class SentMessage(msgspec.Struct, frozen=True, kw_only=True):
    role: Literal["user", "system", "developer", "assistant"]
    content: str | list[Item] = ""


class SentFunctionCall(msgspec.Struct, frozen=True, kw_only=True):
    call_id: str
    name: str
    arguments: str = "{}"
    namespace: str | None = None


class SentCustomCall(msgspec.Struct, frozen=True, kw_only=True):
    call_id: str
    name: str
    input: str = ""
    namespace: str | None = None


class SentOutput(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a call of either kind."""

    call_id: str
    output: str | list[Item] = ""


class SentReasoning(msgspec.Struct, frozen=True, kw_only=True):
    summary: list[Item] = []
    content: list[Item] | None = None
    encrypted_content: str | None = None


_DECLARATIONS = ("additional_tools", "tool_search_output")
"""The types of items that declare tools."""


class SentDeclaration(msgspec.Struct, frozen=True, kw_only=True):
    tools: list[Item] = []


def input_items(sent: str | Sequence[Item]) -> list[Item]:
    """Return the items of an input; a text is a user's message."""
    return [{"type": "message", "role": "user", "content": sent}] if isinstance(sent, str) else list(sent)


def kind_of(item: Item) -> str:
    """Return the type of an item. It may be absent in messages and in references."""
    kind = item.get("type")
    if kind is None:
        return "message" if "role" in item else "item_reference" if "id" in item else "none"
    return str(kind)


def declared_tools(items: Iterable[Item]) -> list[Item]:
    """Return the tools that are declared among the items. Raises BadRequest."""
    declared: list[Item] = []
    for index, item in enumerate(items):
        if kind_of(item) in _DECLARATIONS:
            declared += convert_value(item, SentDeclaration, ("input", index)).tools
    return declared


class Conversation:
    """Builds messages from items. Consecutive items of the assistant are one message."""

    def __init__(
        self, unseal: Callable[[str], str | None], *, fetches_images: bool = False, omits_tool_images: bool = False
    ) -> None:
        """`unseal` decrypts reasoning; it returns None for what another server encrypted.

        `omits_tool_images`: a text stands for images in results of tools.
        """
        self.skipped: list[str] = []
        """The kinds of the items that mean nothing here."""
        self._unseal = unseal
        self._omits_tool_images = omits_tool_images
        self._image_schemes = (*DATA_SCHEMES, *REMOTE_SCHEMES) if fetches_images else DATA_SCHEMES
        self._messages: list[Message] = []
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[ToolCall] = []

    def add_instructions(self, text: str) -> None:
        """Add a system message before everything."""
        self._add_message(Message(role="system", content=text))

    def add(self, item: Item, path: FieldPath) -> None:
        """Add the next item, which stands at `path`. Raises BadRequest."""
        match kind_of(item):
            case "message":
                self._add_sent_message(convert_value(item, SentMessage, path), path)
            case "function_call":
                call = convert_value(item, SentFunctionCall, path)
                name = qualified_name(call.namespace or "", call.name)
                self._calls.append(ToolCall(call.call_id, name, call.arguments))
            case "custom_tool_call":
                custom = convert_value(item, SentCustomCall, path)
                name = qualified_name(custom.namespace or "", custom.name)
                arguments = json.dumps({CUSTOM_PARAMETER: custom.input}, ensure_ascii=False)
                self._calls.append(ToolCall(custom.call_id, name, arguments))
            case "function_call_output" | "custom_tool_call_output":
                output = convert_value(item, SentOutput, path)
                sent = self._without_images(output.output) if self._omits_tool_images else output.output
                content = self._content(sent, (*path, "output"))
                self._end_assistant_message()
                self._messages.append(Message(role="tool", content=content, tool_call_id=output.call_id))
            case "reasoning":
                self._add_reasoning(convert_value(item, SentReasoning, path), path)
            case kind if kind in _DECLARATIONS:
                pass  # They were added to the tools.
            case "item_reference":
                raise BadRequest(f"Item with id '{str(item.get('id'))[:80]}' not found.", "input")
            case "compaction":
                raise BadRequest("This server compacts no conversations, so it cannot read a compaction", "input")
            case kind:
                self.skipped.append(kind[:40])

    def messages(self) -> tuple[Message, ...]:
        """Return all messages. A conversation without any gets an empty one of the user, since clients probe so."""
        self._end_assistant_message()
        if all(message.role == "system" for message in self._messages):
            self._messages.append(Message(role="user", content=""))
        return tuple(self._messages)

    def _add_sent_message(self, sent: SentMessage, path: FieldPath) -> None:
        content = self._content(sent.content, (*path, "content"))
        if sent.role == "assistant":
            self._texts.append(_text_only(content, (*path, "content")))
        else:
            role: Literal["user", "system"] = "user" if sent.role == "user" else "system"
            self._add_message(Message(role=role, content=content))

    def _add_message(self, message: Message) -> None:
        """Add a message of the user or system. System messages before all others are one."""
        self._end_assistant_message()
        first = self._messages[0] if len(self._messages) == 1 else None
        if message.role == "system" and first is not None and first.role == "system":
            self._messages = [Message(role="system", content=_joined(first.content, message.content))]
        else:
            self._messages.append(message)

    def _add_reasoning(self, sent: SentReasoning, path: FieldPath) -> None:
        text = None if sent.encrypted_content is None else self._unseal(sent.encrypted_content)
        if text is None:
            shown = self._content(sent.content or sent.summary, path)
            text = Message(role="assistant", content=shown).text
        if text:
            self._reasoning.append(text)

    def _end_assistant_message(self) -> None:
        if self._texts or self._calls or self._reasoning:
            message = Message(
                role="assistant",
                content="\n".join(self._texts),
                tool_calls=tuple(self._calls),
                reasoning="\n".join(self._reasoning) or None,
            )
            if message.text or message.tool_calls:  # Reasoning without an answer helps nobody.
                self._messages.append(message)
            self._texts, self._calls, self._reasoning = [], [], []

    def _without_images(self, sent: str | Sequence[Item]) -> str | Sequence[Item]:
        if isinstance(sent, str):
            return sent
        text = {"type": "input_text", "text": OMITTED_IMAGE}
        return [text if item.get("type") == "input_image" else item for item in sent]

    def _content(self, sent: str | Sequence[Item], path: FieldPath) -> str | tuple[Part, ...]:
        if isinstance(sent, str):
            return sent
        parts = [part for index, item in enumerate(sent) if (part := self._part(item, (*path, index))) is not None]
        if any(isinstance(part, ImagePart) for part in parts):
            return tuple(parts)
        return "".join(part.text for part in parts if isinstance(part, TextPart))

    def _part(self, sent: Item, path: FieldPath) -> Part | None:
        match sent:
            case {"type": kind, "text": str(text)} if kind in _TEXT_PARTS:
                return TextPart(text)
            case {"type": "refusal", "refusal": str(text)}:
                return TextPart(text)
            case {"type": "input_image", "image_url": str(url)} if url.startswith(self._image_schemes):
                return ImagePart(url, image_detail(sent.get("detail")))
            case {"type": "input_image" | "input_file" as kind}:
                place = _written(path)
                if kind == "input_image" and REMOTE_SCHEMES[0] in self._image_schemes:
                    raise BadRequest(f"{place}: images are taken as data: and http(s) URLs", "input")
                taken = "; images are taken as data: URLs" if kind == "input_image" else ""
                raise BadRequest(f"{place}: this server fetches and reads no {kind}{taken}", "input")
            case {"type": kind} if kind not in _TEXT_PARTS:
                self.skipped.append(str(kind)[:40])
                return None
        raise BadRequest("A part of a content needs a type and its text", "input")


def _written(path: FieldPath) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)[1:]


def _text_only(content: str | Sequence[Part], path: FieldPath) -> str:
    """Return the text of an assistant's message. Raises BadRequest for an image in it."""
    if isinstance(content, str):
        return content
    index = next(index for index, part in enumerate(content) if isinstance(part, ImagePart))
    raise BadRequest(f"{_written((*path, index))}: an assistant's message takes no images", "input")


def _joined(first: str | tuple[Part, ...], second: str | tuple[Part, ...]) -> str | tuple[Part, ...]:
    """Return two contents as one, with an empty line between them."""
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    parts: list[Part] = []
    for part in (*_parts_of(first), TextPart("\n\n"), *_parts_of(second)):
        before = parts[-1] if parts else None
        if isinstance(part, TextPart) and isinstance(before, TextPart):
            parts[-1] = TextPart(before.text + part.text)
        else:
            parts.append(part)
    return tuple(parts)


def _parts_of(content: str | tuple[Part, ...]) -> tuple[Part, ...]:
    return (TextPart(content),) if isinstance(content, str) else content
