"""The images of a conversation: decoded for the engine process, and put at their places in the rendered prompt."""

import asyncio
import base64
import binascii
import contextlib
import io
import re
import secrets
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from dragoman.core.errors import BadRequest
from dragoman.core.request import ChatPrompt, ImagePart, Message, TextPart
from dragoman.engines.llama.raw_image import RawImage
from dragoman.engines.llama.wire.messages import ImagePrompt, PlacedImage
from dragoman.engines.llama.wire.options import ImageLimits
from dragoman.engines.llama.worker.pixel_budget import PixelBudget
from dragoman.prompt.template import RenderedPrompt

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""What is decoded; of an animation the first picture."""

_CHANNELS = 3

_MAX_PIXEL_BYTES = _CHANNELS * 2**26
"""The most bytes of all decoded images of a request: a frame to the engine process has no room for more."""

MAX_ASPECT_RATIO = 50
"""llama.cpp's ways of preparing images end the process where a side of a scaled one would have no pixel."""


_MAX_KEPT_BYTES = 64 * 1024 * 1024
"""Of the images that a worker keeps between their count and their answer."""


_MAX_SECONDS = 20.0
"""Of a thread's own time for the images of a request. What takes longest of usual files takes a few."""

_READ_BYTES = 1024
"""What is decoded between two looks at the clock. Each 30 bytes of a JPEG may be a pass over all of its pixels."""


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

    def find(self, part: ImagePart) -> RawImage | None:
        """Return the image of this very part, which is still kept. None: it is not there."""
        kept = self._kept.get(id(part))
        return None if kept is None else kept.image

    def take(self, part: ImagePart) -> RawImage | None:
        """Return the image of this very part, which is kept no longer. None: it is not there."""
        return self._remove(id(part))

    def _remove(self, number: int) -> RawImage | None:
        kept = self._kept.pop(number, None)
        if kept is None:
            return None
        self._free_bytes += len(kept.image.pixels)
        return kept.image


class ImageMemory:
    """The decoded images of a worker, whatever engine they are for."""

    def __init__(self, max_bytes: int = _MAX_PIXEL_BYTES, max_kept_bytes: int = _MAX_KEPT_BYTES) -> None:
        """`max_bytes`: of all images between their decoding and the engine process, at least those of one request."""
        self.budget = PixelBudget(max_bytes)
        self.kept = DecodedImages(max_kept_bytes)


class ImageIntake(NamedTuple):
    """How an engine takes images."""

    limits: ImageLimits
    memory: ImageMemory


class PreparedImages:
    """The images of one prompt. Texts that nobody else can have written stand for them until it is rendered."""

    def __init__(self, prompt: ChatPrompt, intake: ImageIntake, owner: str) -> None:
        """Raises BadRequest."""
        self._parts = [image for message in prompt.messages for image in message.images]
        self._limits, self._memory = intake
        self._owner = owner
        limits = intake.limits
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

    async def place(self, rendered: RenderedPrompt, sent: Callable[[], Awaitable[None]]) -> ImagePrompt:
        """Return the rendered prompt with the images, when there is memory for them. Raises BadRequest.

        The memory is that of others when the returned object is gone. `sent` waits until what was sent before has left
        this process.
        """
        positions = [rendered.text.find(marker) for marker in self._markers]
        if positions != sorted(positions) or any(rendered.text.count(marker) != 1 for marker in self._markers):
            raise BadRequest("The model's chat template does not write each image once and in order", "messages")
        kept = [image for part in self._parts if (image := self._memory.kept.find(part)) is not None]
        if len(kept) == len(self._parts):
            size = sum(len(image.pixels) for image in kept)
        else:
            size = await asyncio.to_thread(_size, self._parts, self._limits)
        budget = self._memory.budget
        await budget.acquire(self._owner, size)
        decoding = asyncio.ensure_future(self._decode(sent))
        try:
            prompt = self._placed(rendered, positions, await asyncio.shield(decoding))
        except BaseException:
            # A thread decodes to the end, whoever waits for it.
            decoding.add_done_callback(partial(_release_decoded, budget, size))
            raise
        weakref.finalize(prompt, _release_from_any_thread, asyncio.get_running_loop(), budget, size).atexit = False
        return prompt

    def _placed(self, rendered: RenderedPrompt, positions: Sequence[int], images: Sequence[RawImage]) -> ImagePrompt:
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

    async def _decode(self, sent: Callable[[], Awaitable[None]]) -> list[RawImage]:
        """Raises BadRequest."""
        await sent()
        kept = [image for part in self._parts if (image := self._memory.kept.take(part)) is not None]
        if len(kept) == len(self._parts):
            return kept
        images = await asyncio.to_thread(decode_images, self._parts, self._limits)
        for part, image in zip(self._parts, images, strict=True):
            self._memory.kept.keep(part, image)
        return images


def prepare_images(prompt: ChatPrompt, intake: ImageIntake, owner: str = "") -> PreparedImages | None:
    """Return the images of a prompt. None: it has none. Raises BadRequest."""
    has_images = any(message.images for message in prompt.messages)
    return PreparedImages(prompt, intake, owner) if has_images else None


def _release_decoded(budget: PixelBudget, size: int, decoding: asyncio.Future[list[RawImage]]) -> None:
    if not decoding.cancelled():
        decoding.exception()  # Whoever waited for it has it, or is gone.
    budget.release(size)


def _release_from_any_thread(loop: asyncio.AbstractEventLoop, budget: PixelBudget, size: int) -> None:
    """Return the memory of an object that is gone: the garbage collector runs in whatever thread."""
    with contextlib.suppress(RuntimeError):  # The loop has ended, and with it who would wait.
        loop.call_soon_threadsafe(budget.release, size)


def _with_markers(message: Message, markers: Iterator[str]) -> Message:
    assert not isinstance(message.content, str)
    content = "".join(part.text if isinstance(part, TextPart) else next(markers) for part in message.content)
    return msgspec.structs.replace(message, content=content)


def _moved(offsets: Sequence[int], begin: int, end: int, target: int) -> list[int]:
    """Return the offsets of a part of the text that now begins at `target`."""
    return [offset - begin + target for offset in offsets if begin <= offset < end]


class _TimedFile(io.BytesIO):
    """An image's file that can no longer be read when its thread has taken too long."""

    def __init__(self, content: bytes, deadline: float) -> None:
        """`deadline`: in seconds of time.thread_time."""
        super().__init__(content)
        self._deadline = deadline

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self._deadline:
            raise BadRequest("The images take too long to decode", "messages")
        return super().read(size)


def _size(parts: Sequence[ImagePart], limits: ImageLimits) -> int:
    """Return the bytes that the images of a request have when they are decoded. Raises BadRequest."""
    size, deadline = 0, time.thread_time() + _MAX_SECONDS
    for part in parts:
        with _opened(part, limits, deadline) as opened:
            size += _CHANNELS * opened.width * opened.height
        if size > _MAX_PIXEL_BYTES:
            raise BadRequest(f"The images have more than {_MAX_PIXEL_BYTES // _CHANNELS} pixels together", "messages")
    return size


def decode_images(parts: Sequence[ImagePart], limits: ImageLimits, max_seconds: float = _MAX_SECONDS) -> list[RawImage]:
    """Decode the images of a request, in so many seconds of the thread's own time. Raises BadRequest."""
    deadline = time.thread_time() + max_seconds
    return [_decode(part, limits, deadline) for part in parts]


@contextlib.contextmanager
def _opened(part: ImagePart, limits: ImageLimits, deadline: float) -> Iterator["Image.Image"]:
    """Open an image, and translate all errors of the block to BadRequest."""
    encoded = _encoded(part, limits)
    # Only for images: the import takes a while.
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # The limits below are checked instead, before the pixels are read.
    try:
        with Image.open(_TimedFile(encoded, deadline), formats=FORMATS) as opened:
            _check_size(*opened.size, limits)
            opened.decodermaxblock = _READ_BYTES
            yield opened
    except BadRequest:
        raise
    except Exception as error:
        raise BadRequest("An image cannot be decoded; PNG, JPEG, WebP, GIF and BMP can be", "messages") from error


def _decode(part: ImagePart, limits: ImageLimits, deadline: float) -> RawImage:
    """Decode an image. Raises BadRequest."""
    from PIL import Image

    with _opened(part, limits, deadline) as opened:
        image = _with_8_bits(_upright(opened))
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        decoded = image.convert("RGB")
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
