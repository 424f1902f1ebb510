"""A process that renders one template after another, and may be killed at any moment.

Started by foreign.ForeignTemplates as `python -m dragoman.prompt.foreign_process`. A frame on standard input or output
is four bytes of length, little-endian, and as many of msgpack; an empty one on standard output says that it is ready.
"""

import contextlib
import resource
import signal
import sys
from typing import BinaryIO

import msgspec

from dragoman.core.request import ChatPrompt
from dragoman.prompt.sandbox import TemplateError, TemplateRefusal
from dragoman.prompt.template import ChatTemplate, RenderedPrompt

DEADLINE_SECONDS = 2
"""What one rendering may take."""

LENGTH_BYTES = 4

_MEMORY_BYTES = 512 * 2**20
"""Of address space, the interpreter's own included."""


class Rendering(msgspec.Struct, frozen=True):
    """Apply a template."""

    prompt: ChatPrompt
    """With the variables in its `template_arguments`."""
    source: str
    bos: str
    eos: str
    thinks: bool
    most_characters: int
    constrained: bool


class Rendered(msgspec.Struct, frozen=True):
    """What became of a Rendering: a prompt, or why there is none."""

    prompt: RenderedPrompt | None = None
    refusal: str | None = None
    """What the template said to raise_exception."""
    error: str | None = None


def encode(message: Rendering | Rendered) -> bytes:
    """One frame."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


def main() -> None:
    """Answer until standard input ends."""
    with contextlib.suppress(ValueError, OSError):  # Not every system limits address space.
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    _write(bytes(LENGTH_BYTES))
    while (rendering := _read(sys.stdin.buffer)) is not None:
        # The parent kills a process that takes too long. This is for one whose parent has died meanwhile.
        signal.alarm(2 * DEADLINE_SECONDS)
        reply = encode(_apply(rendering))
        signal.alarm(0)
        _write(reply)


def _apply(rendering: Rendering) -> Rendered:
    template = ChatTemplate(rendering.source, bos=rendering.bos, eos=rendering.eos, thinks=rendering.thinks)
    try:
        prompt = template.apply(
            rendering.prompt,
            rendering.prompt.template_arguments,
            constrained=rendering.constrained,
            most_characters=rendering.most_characters,
        )
    except TemplateRefusal as refusal:
        return Rendered(refusal=str(refusal))
    except TemplateError as error:
        return Rendered(error=str(error))
    return Rendered(prompt)


def _read(stream: BinaryIO) -> Rendering | None:
    length = stream.read(LENGTH_BYTES)
    if len(length) < LENGTH_BYTES:
        return None
    body = stream.read(int.from_bytes(length, "little"))
    return msgspec.msgpack.decode(body, type=Rendering)


def _write(frame: bytes) -> None:
    sys.stdout.buffer.write(frame)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
