"""Images at http(s) addresses among those of a prompt, and who fetches them. Without imports that fetching needs."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from dragoman.core.request import ChatPrompt, GenerationRequest, ImagePart, Message, Part, Prompt
from dragoman.core.tasks import Task


class ImageFetcher(Protocol):
    """Fetches images. Its methods may be called within `opened`."""

    def opened(self) -> AbstractAsyncContextManager[None]:
        """Open what connections need for the block."""
        ...

    async def with_images(self, requests: Sequence[Task]) -> Sequence[Task]:
        """Return the requests with data: addresses in place of http(s) addresses. Raises BadRequest."""
        ...

    async def with_images_of(self, prompt: Prompt) -> Prompt:
        """Return the prompt with data: addresses in place of http(s) addresses. Raises BadRequest."""
        ...


def has_remote_images(request: Task) -> bool:
    """Whether the request has images that must be fetched."""
    return bool(urls_of(request))


def urls_of(request: Task) -> list[str]:
    """Return the addresses of the images that must be fetched."""
    return remote_urls(request.prompt) if isinstance(request, GenerationRequest) else []


def remote_urls(prompt: Prompt) -> list[str]:
    """Return the addresses of the images that must be fetched."""
    if not isinstance(prompt, ChatPrompt):
        return []
    return [image.url for message in prompt.messages for image in message.images if image.is_remote]


def with_images(prompt: Prompt, images: Mapping[str, str]) -> Prompt:
    """Return the prompt with other addresses of images, by those that they have."""
    if not isinstance(prompt, ChatPrompt):
        return prompt
    messages = tuple(_message_with_images(message, images) for message in prompt.messages)
    return msgspec.structs.replace(prompt, messages=messages)


def _message_with_images(message: Message, images: Mapping[str, str]) -> Message:
    if isinstance(message.content, str):
        return message
    content = tuple(_part_with_image(part, images) for part in message.content)
    return msgspec.structs.replace(message, content=content)


def _part_with_image(part: Part, images: Mapping[str, str]) -> Part:
    if isinstance(part, ImagePart) and part.is_remote:
        return msgspec.structs.replace(part, url=images[part.url])
    return part
