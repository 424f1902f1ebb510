"""Images of conversations, decoded and put into the rendered prompt."""

import asyncio
import base64
import gc
import io
import zlib

import pytest
from PIL import Image

from dragoman.core.errors import BadRequest
from dragoman.core.request import ChatPrompt, ImagePart, Message, PromptTruncation, TextPart
from dragoman.engines.llama.raw_image import RawImage
from dragoman.engines.llama.wire.messages import ImagePrompt
from dragoman.engines.llama.wire.options import ImageLimits
from dragoman.engines.llama.worker.images import DecodedImages, ImageIntake, ImageMemory, decode_images, prepare_images
from dragoman.prompt.template import ChatTemplate, RenderedPrompt
from tests.support.chat_templates import HERMES
from tests.support.timeouts import TEST_TIMEOUT_SECONDS
from tests.support.tiny_projector import data_url, random_image

LIMITS = ImageLimits(max_count=2, max_bytes=20_000, max_pixels=10_000)
TEMPLATE = ChatTemplate(HERMES, bos="", eos="")
IMAGE = random_image()


def place(*parts: TextPart | ImagePart, template: ChatTemplate = TEMPLATE) -> ImagePrompt:
    """Render a conversation. Raises BadRequest."""
    prompt = ChatPrompt(messages=(Message(role="user", content=parts),))
    images = prepare_images(prompt, ImageIntake(LIMITS, ImageMemory()))
    assert images is not None
    return asyncio.run(images.place(template.render(images.prompt), sent))


async def sent() -> None:
    """Nothing is on its way to the engine process."""


def encoded(data: bytes) -> ImagePart:
    return ImagePart(f"data:image/png;base64,{base64.b64encode(data).decode()}")


def png(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_images_keep_their_places_in_the_rendered_text() -> None:
    other = random_image(1, 20, 20)
    placed = place(TextPart("a"), ImagePart(data_url(IMAGE)), TextPart("b"), ImagePart(data_url(other)))
    assert placed.text == "<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n"
    assert [(each.offset, each.image) for each in placed.images] == [
        (len("<|im_start|>user\na"), IMAGE),
        (len("<|im_start|>user\nab"), other),
    ]


@pytest.mark.parametrize("transparency", [None, 5])
def test_an_image_with_16_bits_for_each_pixel_keeps_its_shades(transparency: int | None) -> None:
    shades = Image.frombytes("I;16", (4, 1), b"\x00\x00\xff\x40\xff\x80\xff\xff")
    if transparency is not None:
        shades.info["transparency"] = transparency
    [placed] = place(encoded(png(shades)), TextPart("b")).images
    assert placed.image.pixels == bytes(shade for shade in (0, 0x40, 0x80, 0xFF) for _ in range(3))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_image_whose_metadata_are_damaged_is_decoded(kind: str) -> None:
    image = Image.new("RGB", (30, 10))
    [placed] = place(encoded(png(image, kind, exif=b"Exif\0\0damaged.")), TextPart("b")).images
    assert (placed.image.width, placed.image.height) == (30, 10)


def test_literal_offsets_move_with_the_text() -> None:
    prompt = ChatPrompt(messages=(Message(role="user", content=(ImagePart(data_url(IMAGE)),)),))
    images = prepare_images(prompt, ImageIntake(LIMITS, ImageMemory()))
    assert images is not None
    marker = images.prompt.messages[0].text
    rendered = RenderedPrompt(f"ab{marker}cd", TEMPLATE.render(images.prompt).parser_spec, (1, 3 + len(marker)))
    placed = asyncio.run(images.place(rendered, sent))
    assert (placed.text, placed.literal_offsets, placed.images[0].offset) == ("abcd", (1, 3), 2)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "JPEG", "WEBP"])
def test_usual_formats_are_decoded(kind: str) -> None:
    [placed] = place(ImagePart(data_url(IMAGE, kind)), TextPart("b")).images
    assert (placed.image.width, placed.image.height, len(placed.image.pixels)) == (40, 30, 40 * 30 * 3)


def test_transparency_is_white_and_a_photograph_stands_upright() -> None:
    clear = encoded(png(Image.new("RGBA", (2, 1), (255, 0, 0, 0))))
    assert place(clear, TextPart("b")).images[0].image.pixels == b"\xff" * 6
    exif = Image.Exif()
    exif[0x0112] = 6  # turned to the right by a quarter
    turned = place(encoded(png(Image.new("RGB", (30, 10)), exif=exif)), TextPart("b")).images[0].image
    assert (turned.width, turned.height) == (10, 30)


def _bomb() -> bytes:
    """A file of a few bytes that says it has many pixels."""
    data = bytearray(png(Image.new("1", (8, 8))))
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (encoded(b""), "cannot be decoded"),
        (encoded(b"GIF89a"), "cannot be decoded"),
        (encoded(png(Image.new("RGB", (40, 30)))[:-30]), "cannot be decoded"),
        (encoded(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "cannot be decoded"),
        (encoded(png(Image.new("RGB", (40, 30)), "TIFF")), "cannot be decoded"),
        (encoded(_bomb()), "pixels"),
        (encoded(png(Image.new("RGB", (101, 100)))), "an image may have 10000"),
        (encoded(png(Image.new("RGB", (1, 51)))), "50 times the other"),
        (ImagePart(f"data:image/png;base64,{'A' * 30_000}"), "more than 20000 bytes"),
        (ImagePart("data:image/png;base64,A"), "not in base64"),
        (ImagePart("data:image/png,plain"), "must be data: URLs in base64"),
        (ImagePart("https://example.com/image.png"), "must be data: URLs in base64"),
    ],
)
def test_an_image_that_cannot_be_used_is_refused_with_the_reason(part: ImagePart, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason) as caught:
        place(part, TextPart("b"))
    assert caught.value.parameter == "messages"


def test_too_many_images_and_what_does_not_go_with_them_are_refused() -> None:
    one = ImagePart(data_url(IMAGE))
    with pytest.raises(BadRequest, match="3 images were sent; a request may have 2"):
        place(one, one, one)
    prompt = ChatPrompt(messages=(Message(role="user", content=(one,)),), truncation=PromptTruncation(8))
    with pytest.raises(BadRequest, match="cannot be truncated"):
        prepare_images(prompt, ImageIntake(LIMITS, ImageMemory()))
    for source in ("{{ messages[0].role }}", "{{ messages[0].content * 2 }}"):
        with pytest.raises(BadRequest, match="does not write each image once"):
            place(one, template=ChatTemplate(source, bos="", eos=""))


def test_images_that_are_too_large_together_for_the_engine_process_are_refused() -> None:
    large = encoded(png(Image.new("1", (5800, 5800))))
    limits = ImageLimits(max_count=9, max_bytes=10**6, max_pixels=2**26)
    prompt = ChatPrompt(messages=(Message(role="user", content=(large, large)),))
    images = prepare_images(prompt, ImageIntake(limits, ImageMemory()))
    assert images is not None
    with pytest.raises(BadRequest, match="more than 67108864 pixels together"):
        asyncio.run(images.place(TEMPLATE.render(images.prompt), sent))


def test_a_file_of_many_passes_over_its_pixels_is_not_decoded_for_as_long_as_it_takes() -> None:
    limits = ImageLimits(max_count=1, max_bytes=10**6, max_pixels=2**22)
    once = png(Image.new("RGB", (2048, 2048)), "JPEG", progressive=True)
    last = once[once.rfind(b"\xff\xda") : -2]
    with pytest.raises(BadRequest, match="too long to decode"):
        decode_images([encoded(once[:-2] + 10_000 * last + once[-2:])], limits, max_seconds=0.5)
    assert decode_images([encoded(once)], limits)


def test_prompts_without_images_are_left_alone() -> None:
    prompt = ChatPrompt(messages=(Message(role="user", content="a"),))
    assert prepare_images(prompt, ImageIntake(LIMITS, ImageMemory())) is None


def test_an_image_is_decoded_once_for_its_count_and_its_answer_and_anew_for_another_request() -> None:
    def prompt() -> ChatPrompt:
        return ChatPrompt(messages=(Message(role="user", content=(TextPart("a"), ImagePart(data_url(IMAGE)))),))

    def decode(prompt: ChatPrompt) -> RawImage:
        images = prepare_images(prompt, ImageIntake(LIMITS, memory))
        assert images is not None
        return asyncio.run(images.place(TEMPLATE.render(images.prompt), sent)).images[0].image

    memory = ImageMemory()
    counted, other = prompt(), prompt()
    first = decode(counted)
    assert decode(other) is not first
    assert decode(counted) is first
    assert decode(counted) is not first, "it was kept for one answer"


def test_kept_images_are_bounded_and_go_with_their_requests() -> None:
    decoded = DecodedImages(max_bytes=2 * len(IMAGE.pixels))
    parts = [ImagePart(f"data:image/png;base64,{number}") for number in range(3)]
    for part in parts:
        decoded.keep(part, IMAGE)
        decoded.keep(part, IMAGE)
    assert [decoded.take(part) for part in parts[1:]] == [IMAGE, None]
    del parts[0], part
    gc.collect()
    later = [ImagePart("data:image/png;base64,later") for _ in range(3)]
    for part in later:
        decoded.keep(part, IMAGE)
    assert [decoded.take(part) for part in later] == [IMAGE, IMAGE, None]


async def test_images_are_decoded_when_those_of_other_requests_have_left() -> None:
    memory = ImageMemory(max_bytes=len(IMAGE.pixels) * 3 // 2, max_kept_bytes=0)

    async def place_one(owner: str) -> ImagePrompt:
        prompt = ChatPrompt(messages=(Message(role="user", content=(ImagePart(data_url(IMAGE)), TextPart("a"))),))
        images = prepare_images(prompt, ImageIntake(LIMITS, memory), owner)
        assert images is not None
        return await images.place(TEMPLATE.render(images.prompt), sent)

    async def is_placed(owner: str) -> bool:
        return (await place_one(owner)).images[0].image == IMAGE

    first = await place_one("a")
    waiting = [asyncio.create_task(is_placed(owner)) for owner in ("a", "a", "b")]
    done, _ = await asyncio.wait(waiting, timeout=0.1)
    assert not done
    waiting[0].cancel()
    assert first.images
    del first
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        assert await asyncio.gather(*waiting[1:]) == [True, True]


async def test_an_image_that_cannot_be_decoded_leaves_its_memory_to_others() -> None:
    memory = ImageMemory(max_bytes=3 * 40 * 30)
    for data in (png(Image.new("RGB", (40, 30)))[:-30], png(Image.new("RGB", (40, 30)))):
        prompt = ChatPrompt(messages=(Message(role="user", content=(encoded(data), TextPart("a"))),))
        images = prepare_images(prompt, ImageIntake(LIMITS, memory))
        assert images is not None
        placing = images.place(TEMPLATE.render(images.prompt), sent)
        if data.endswith(b"IEND\xaeB`\x82"):
            async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
                await placing
        else:
            with pytest.raises(BadRequest, match="cannot be decoded"):
                await placing
