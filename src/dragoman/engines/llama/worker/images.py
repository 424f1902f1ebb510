"""The images of a conversation: decoded for the engine process, and put at their places in the rendered prompt."""

import asyncio
import base64
import binascii
import io
import re
import secrets
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from dragoman.core.errors import BadRequest
from dragoman.core.request import ChatPrompt, ImagePart, Message, TextPart
from dragoman.engines.llama.raw_image import RawImage
from dragoman.engines.llama.wire.messages import ImagePrompt, PlacedImage
from dragoman.engines.llama.wire.options import ImageLimits
from dragoman.prompt.template import RenderedPrompt

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""What is decoded; of an animation the first picture."""

_MAX_PIXEL_BYTES = 3 * 2**26
"""The most bytes of all decoded images of a request: a frame to the engine process has no room for more."""

MAX_ASPECT_RATIO = 50
"""llama.cpp's ways of preparing images end the process where a side of a scaled one would have no pixel."""


_MAX_KEPT_BYTES = 64 * 1024 * 1024
"""Of the images that an engine's client keeps between their count and their answer."""


class _KeptImage(NamedTuple):
    part: "weakref.ref[ImagePart]"
    image: RawImage


class DecodedImages:
    """Keeps decoded images from the count of a prompt's tokens to its answer, so that they are decoded once.

    An image belongs to the part of one request, and goes with it. Equal images of others are decoded anew, so that
    nobody finds out by the time what others have sent.
    """

    def __init__(self, max_bytes: int = _MAX_KEPT_BYTES) -> None:
        self._free_bytes = max_bytes
        self._kept: dict[int, _KeptImage] = {}

    def keep(self, part: ImagePart, image: RawImage) -> None:
        """Keep an image until it is taken or its part is gone, if there is room."""
        number = id(part)
        if number not in self._kept and len(image.pixels) <= self._free_bytes:
            self._free_bytes -= len(image.pixels)
            self._kept[number] = _KeptImage(weakref.ref(part, lambda _: self._remove(number)), image)

    def take(self, part: ImagePart) -> RawImage | None:
        """Return the image of this very part, which is kept no longer. None: it is not there."""
        return self._remove(id(part))

    def _remove(self, number: int) -> RawImage | None:
        kept = self._kept.pop(number, None)
        if kept is None:
            return None
        self._free_bytes += len(kept.image.pixels)
        return kept.image


class PreparedImages:
    """The images of one prompt. Texts that nobody else can have written stand for them until it is rendered."""

    def __init__(self, prompt: ChatPrompt, limits: ImageLimits, decoded: DecodedImages) -> None:
        """Raises BadRequest."""
        self._parts = [image for message in prompt.messages for image in message.images]
        self._limits = limits
        self._decoded = decoded
        if len(self._parts) > limits.max_count:
            raise BadRequest(f"{len(self._parts)} images were sent; a request may have {limits.max_count}", "messages")
        if prompt.truncation is not None:
            raise BadRequest("A prompt with images cannot be truncated", "messages")
        secret = secrets.token_hex(8)
        self._markers = [f"image-{secret}-{number};" for number in range(len(self._parts))]
        markers = iter(self._markers)
        messages = tuple(_with_markers(message, markers) if message.images else message for message in prompt.messages)
        self.prompt = msgspec.structs.replace(prompt, messages=messages)
        """The prompt with the texts instead of the images."""

    async def place(self, rendered: RenderedPrompt) -> ImagePrompt:
        """Return the rendered prompt with the images. Raises BadRequest."""
        positions = [rendered.text.find(marker) for marker in self._markers]
        if positions != sorted(positions) or any(rendered.text.count(marker) != 1 for marker in self._markers):
            raise BadRequest("The model's chat template does not write each image once and in order", "messages")
        images = await self._decode()
        text, literal = "", list[int]()
        begin = 0
        placed = []
        for marker, position, image in zip(self._markers, positions, images, strict=True):
            literal += _moved(rendered.literal_offsets, begin, position, len(text))
            text += rendered.text[begin:position]
            placed.append(PlacedImage(len(text), image))
            begin = position + len(marker)
        literal += _moved(rendered.literal_offsets, begin, len(rendered.text), len(text))
        return ImagePrompt(text + rendered.text[begin:], tuple(literal), tuple(placed))

    async def _decode(self) -> list[RawImage]:
        """Raises BadRequest."""
        kept = [image for part in self._parts if (image := self._decoded.take(part)) is not None]
        if len(kept) == len(self._parts):
            return kept
        images = await asyncio.to_thread(_decode_all, self._parts, self._limits)
        for part, image in zip(self._parts, images, strict=True):
            self._decoded.keep(part, image)
        return images


def prepare_images(prompt: ChatPrompt, limits: ImageLimits, decoded: DecodedImages) -> PreparedImages | None:
    """Return the images of a prompt. None: it has none. Raises BadRequest."""
    return PreparedImages(prompt, limits, decoded) if any(message.images for message in prompt.messages) else None


def _with_markers(message: Message, markers: Iterator[str]) -> Message:
    assert not isinstance(message.content, str)
    content = "".join(part.text if isinstance(part, TextPart) else next(markers) for part in message.content)
    return msgspec.structs.replace(message, content=content)


def _moved(offsets: Sequence[int], begin: int, end: int, target: int) -> list[int]:
    """Return the offsets of a part of the text that now begins at `target`."""
    return [offset - begin + target for offset in offsets if begin <= offset < end]


def _decode_all(parts: Sequence[ImagePart], limits: ImageLimits) -> list[RawImage]:
    """Decode the images of a request. Raises BadRequest, as soon as they have too many pixels together."""
    images: list[RawImage] = []
    for part in parts:
        images.append(_decode(part, limits))
        if sum(len(image.pixels) for image in images) > _MAX_PIXEL_BYTES:
            raise BadRequest(f"The images have more than {_MAX_PIXEL_BYTES // 3} pixels together", "messages")
    return images


def _decode(part: ImagePart, limits: ImageLimits) -> RawImage:
    """Decode an image. Raises BadRequest."""
    encoded = _encoded(part, limits)
    # Only for images: the import takes a while.
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # The limits below are checked instead, before the pixels are read.
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as opened:
            _check_size(*opened.size, limits)
            image = _with_8_bits(_upright(opened))
            if image.has_transparency_data:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            decoded = image.convert("RGB")
    except BadRequest:
        raise
    except Exception as error:
        raise BadRequest("An image cannot be decoded; PNG, JPEG, WebP, GIF and BMP can be", "messages") from error
    return RawImage(*decoded.size, decoded.tobytes())


def _upright(image: "Image.Image") -> "Image.Image":
    """Turn a photograph as its metadata say. Damaged ones are ignored, as browsers do."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001 - of many kinds; damaged pixels are found when they are read
        return image


def _with_8_bits(image: "Image.Image") -> "Image.Image":
    """Return an image without pixels of 16 bits: Pillow would make all of them white that are not nearly black."""
    if not image.mode.startswith("I"):
        return image
    shades = image.convert("I").point(lambda shade: shade * (1 / 256)).convert("L")
    shades.info.pop("transparency", None)
    return shades


def _encoded(part: ImagePart, limits: ImageLimits) -> bytes:
    match = _DATA_URL.match(part.url)
    if match is None:
        raise BadRequest("Images must be data: URLs in base64, such as data:image/png;base64,…", "messages")
    if (len(part.url) - match.end()) * 3 // 4 > limits.max_bytes + 2:
        raise BadRequest(f"An image has more than {limits.max_bytes} bytes", "messages")
    try:
        return base64.b64decode(part.url[match.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest("An image is not in base64", "messages") from error


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        reason = f"has {width} x {height} pixels; an image may have {limits.max_pixels}"
    elif max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        reason = f"has {width} x {height} pixels; one side may be {MAX_ASPECT_RATIO} times the other"
    else:
        return
    raise BadRequest(f"An image {reason}", "messages")


_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)
