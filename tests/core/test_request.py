"""Canonical requests."""

import msgspec

from dragoman.core.limits import is_large_prompt
from dragoman.core.request import ChatPrompt, ImagePart, Message, TextPart

IMAGE = ImagePart("data:image/png;base64,AAAA")


def test_a_message_of_parts_has_the_text_and_the_images_of_its_parts() -> None:
    message = Message(role="user", content=(TextPart("What is "), IMAGE, TextPart("this?")))
    assert (message.text, message.images) == ("What is this?", (IMAGE,))
    assert (Message(role="user", content="Hi").text, Message(role="user", content="Hi").images) == ("Hi", ())


def test_text_and_parts_are_stored_and_read_again() -> None:
    for content in ("Hi", (TextPart("What is this?"), IMAGE)):
        message = Message(role="user", content=content)
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Message) == message


def test_a_message_stored_before_there_were_parts_is_read() -> None:
    stored = msgspec.msgpack.encode({"role": "user", "content": "Hi"})
    assert msgspec.msgpack.decode(stored, type=Message) == Message(role="user", content="Hi")


def test_a_prompt_with_an_image_is_large_however_few_bytes_the_image_has() -> None:
    def prompt(url: str) -> ChatPrompt:
        return ChatPrompt(messages=(Message(role="user", content=(TextPart("?"), ImagePart(url))),))

    assert is_large_prompt(prompt("a" * 1_000_000))
    assert is_large_prompt(prompt("https://example.com/image.png"))
    assert is_large_prompt(prompt("a" * 100)), "they may be many pixels"
