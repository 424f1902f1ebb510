"""Content blocks and messages, converted to core's conversation.

Each turn has at most one message of the assistant, or the results of its calls followed by one message of the user.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from dragoman.core.request import REMOTE_SCHEMES, ImagePart, Message, Part, Role, TextPart, ToolCall
from dragoman.dialects.anthropic.wire import Content, ContentBlock, MessageParam
from dragoman.dialects.http.validation import FieldPath, InvalidValue, MissingField, Violation, WrongType
from dragoman.dialects.openai.parse import OMITTED_IMAGE

TOOL_USE_PREFIX = "toolu_"
"""Precedes the engine's ids of calls, and is removed when they come back."""

_ATTRIBUTION = re.compile(r"\Ax-anthropic-billing-header:(?:[ \t]*[\w.-]+=[^;\s]*(?:;|(?=\s|$)))*[ \t]*\n?")
"""Claude Code's first system text. It differs between conversations, and in older versions between requests, so that
no prefix behind it could be shared."""

_OMITTED = {"image": OMITTED_IMAGE, "document": "[document]"}
"""What stands in a tool's result for what the model does not take, so that a screenshot or a PDF ends no session."""

_ROLES: dict[str, Role] = {"ctx": "user", "msg": "user", "user": "user", "assistant": "assistant", "system": "system"}

Place = tuple[ContentBlock, FieldPath]


class _ImageOptions(NamedTuple):
    """Which images are shown to the model."""

    fetches: bool
    """Whether those at http(s) addresses are taken."""
    omits_of_tools: bool
    """Whether a text stands for those in results of tools."""


def parse_conversation(
    system: Content | None,
    messages: Sequence[MessageParam],
    violations: list[Violation],
    *,
    fetches_images: bool = False,
    omits_tool_images: bool = False,
) -> tuple[Message, ...]:
    """Convert a conversation. Adds to `violations` what cannot be converted.

    `omits_tool_images`: a text stands for images in results of tools.
    """
    options = _ImageOptions(fetches_images, omits_tool_images)
    converted: list[Message] = []
    if system is not None:
        converted += _system_messages([_places(system, ("system",))], violations, options)
    open_calls: tuple[ToolCall, ...] = ()
    numbered = enumerate(messages)
    for role, turn in itertools.groupby(numbered, lambda entry: _ROLES[entry[1].role]):
        contents = [_places(message.content, ("messages", index, "content")) for index, message in turn]
        match role:
            case "system":
                converted += _system_messages(contents, violations, options)
            case "assistant":
                if open_calls:
                    converted += _missing_results(open_calls)
                answer = _assistant_message(contents, violations)
                open_calls = answer.tool_calls
                if answer.text or answer.tool_calls or answer.reasoning:
                    converted.append(answer)
            case _:
                converted += _user_messages(contents, open_calls, violations, options)
                open_calls = ()
    if open_calls:
        converted += _missing_results(open_calls)
    return tuple(converted)


def _places(content: Content, path: FieldPath) -> list[Place]:
    """Return the blocks of a content, each with its path."""
    if isinstance(content, str):
        return [(ContentBlock(type="text", text=content), path)]
    return [(block, (*path, index)) for index, block in enumerate(content)]


def _system_messages(
    contents: Iterable[Sequence[Place]], violations: list[Violation], images: _ImageOptions
) -> Iterator[Message]:
    """Yield a message for each content that has anything to show."""
    for content in contents:
        places = [(_without_attribution(block), path) for block, path in content]
        if shown := _joined_parts([_parts(places, violations, fetches_images=images.fetches)]):
            yield Message(role="system", content=shown)


def _without_attribution(block: ContentBlock) -> ContentBlock:
    return msgspec.structs.replace(block, text=_ATTRIBUTION.sub("", block.text)) if block.text else block


def _join(texts: Iterable[str]) -> str:
    """Join the texts of consecutive messages of one role."""
    return "\n\n".join(filter(None, texts))


def _assistant_message(contents: Sequence[Sequence[Place]], violations: list[Violation]) -> Message:
    blocks = [place for content in contents for place in content]
    for block, path in blocks:
        if block.type in _OMITTED:
            problem = InvalidValue(f"A message of the assistant takes no {block.type}")
            violations.append(Violation((*path, "type"), problem))
    return Message(
        role="assistant",
        content=_join("".join(_text(block) for block, _ in content) for content in contents),
        tool_calls=tuple(_tool_call(*place, violations) for place in blocks if place[0].type == "tool_use"),
        reasoning="".join(block.thinking or "" for block, _ in blocks if block.type == "thinking") or None,
    )


def _tool_call(block: ContentBlock, path: FieldPath, violations: list[Violation]) -> ToolCall:
    missing = [field for field in ("id", "name") if getattr(block, field) is None]
    violations += [Violation((*path, field), MissingField()) for field in missing]
    if not isinstance(block.input, dict | None):
        violations.append(Violation((*path, "input"), WrongType(("object",))))
    arguments = msgspec.json.encode(block.input or {}).decode()
    return ToolCall(_call_id(block.id), block.name or "", arguments)


def _call_id(sent: str | None) -> str:
    return (sent or "").removeprefix(TOOL_USE_PREFIX)


def _missing_results(calls: Iterable[ToolCall]) -> Iterator[Message]:
    """Yield an empty result for each call that was interrupted."""
    return (Message(role="tool", content="", tool_call_id=call.id) for call in calls)


def _user_messages(
    contents: Sequence[Sequence[Place]],
    open_calls: Sequence[ToolCall],
    violations: list[Violation],
    images: _ImageOptions,
) -> Iterator[Message]:
    blocks = [place for content in contents for place in content]
    results = [_tool_result(*place, violations, images) for place in blocks if place[0].type == "tool_result"]
    if results or open_calls:
        answered = {result.tool_call_id for result in results}
        yield from results
        yield from _missing_results(call for call in open_calls if call.id not in answered)
    parts = [_parts(content, violations, fetches_images=images.fetches) for content in contents]
    content = _joined_parts([each for each in parts if each])
    if content or not (results or open_calls):
        yield Message(role="user", content=content)


def _joined_parts(contents: Sequence[Sequence[Part]]) -> str | tuple[Part, ...]:
    """Join the parts of consecutive messages: one text, or several parts of which at least one is no text."""
    parts: list[Part] = []
    for content in contents:
        for number, part in enumerate(content):
            before = parts[-1] if parts else None
            if isinstance(part, TextPart) and isinstance(before, TextPart):
                parts[-1] = TextPart(before.text + ("" if number else "\n\n") + part.text)
            else:
                parts.append(part)
    return _content(parts)


def _content(parts: Sequence[Part]) -> str | tuple[Part, ...]:
    """Return the content of a message: a text, if all of its parts are."""
    if any(isinstance(part, ImagePart) for part in parts):
        return tuple(parts)
    return "".join(part.text for part in parts if isinstance(part, TextPart))


def _parts(places: Iterable[Place], violations: list[Violation], *, fetches_images: bool) -> list[Part]:
    """Return what a message of the user or system shows besides results of tools."""
    parts: list[Part] = []
    for block, path in places:
        if block.type == "image":
            parts.append(ImagePart(_image_url(block.source, path, violations, fetches_images=fetches_images)))
        elif block.type == "document":
            text = _document_text(block)
            if text is None:
                problem = InvalidValue("Documents are taken as text only: sources of the types text and content")
                violations.append(Violation((*path, "source"), problem))
            parts.append(TextPart(text or ""))
        elif text := _text(block):
            parts.append(TextPart(text))
    return parts


def _text(block: ContentBlock) -> str:
    """Return the text of a block that is nothing but text; empty for other blocks."""
    if block.type == "text":
        return block.text or ""
    return _search_result_text(block) if block.type == "search_result" else ""


def _search_result_text(block: ContentBlock) -> str:
    return _join([block.title or "", _texts(block.content)])


def _texts(content: Any) -> str:
    """Return the text in content of any form."""
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    texts = (block.get("text") for block in blocks if isinstance(block, dict) and block.get("type") == "text")
    return "".join(text for text in texts if isinstance(text, str))


def _address(source: Any, *, fetches_images: bool) -> str | None:
    """Return the address of an image; None: it cannot be taken from there."""
    match source:
        case {"type": "base64", "media_type": str(media_type), "data": str(data)} if media_type.startswith("image/"):
            return f"data:{media_type};base64,{data}"
        case {"type": "url", "url": str(url)} if fetches_images and url.startswith(REMOTE_SCHEMES):
            return url
    return None


def _image_url(source: Any, path: FieldPath, violations: list[Violation], *, fetches_images: bool) -> str:
    address = _address(source, fetches_images=fetches_images)
    if address is not None:
        return address
    problem = InvalidValue(
        "Images are taken as base64 and from http(s) URLs only: this server stores no files"
        if fetches_images
        else "Images are taken as base64 only: this server fetches no URLs and stores no files"
    )
    violations.append(Violation((*path, "source"), problem))
    return ""


def _document_text(block: ContentBlock) -> str | None:
    """Return a document with its title and context; None: it is no text, but a PDF, a file or a URL."""
    match block.source:
        case {"type": "text", "data": str(text)}:
            pass
        case {"type": "content", "content": content}:
            text = _texts(content)
        case _:
            return None
    return _join([block.title or "", block.context or "", text])


def _tool_result(block: ContentBlock, path: FieldPath, violations: list[Violation], images: _ImageOptions) -> Message:
    if block.tool_use_id is None:
        violations.append(Violation((*path, "tool_use_id"), MissingField()))
    parts = _result_parts(block.content, (*path, "content"), violations, images)
    return Message(
        role="tool",
        content=_content([TextPart("Error: "), *parts] if block.is_error else parts),
        tool_call_id=_call_id(block.tool_use_id),
    )


def _result_parts(content: Any, path: FieldPath, violations: list[Violation], images: _ImageOptions) -> list[Part]:
    if content is None or isinstance(content, str):
        return [TextPart(content or "")]
    try:
        blocks = msgspec.convert(content, list[ContentBlock])
    except msgspec.ValidationError:
        violations.append(Violation(path, InvalidValue("The result of a tool is a text or a list of blocks")))
        return []
    return [_result_part(block, images) for block in blocks]


def _result_part(block: ContentBlock, images: _ImageOptions) -> Part:
    if block.type == "image" and not images.omits_of_tools:
        address = _address(block.source, fetches_images=images.fetches)
        if address is not None:
            return ImagePart(address)
    text = _document_text(block) if block.type == "document" else _text(block)
    return TextPart(text or _OMITTED.get(block.type, ""))
