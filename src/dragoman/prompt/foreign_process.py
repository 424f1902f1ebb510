"""A process that renders one template after another, and may be killed at any moment.

Started by foreign.ForeignTemplates as `python -m dragoman.prompt.foreign_process`. It reads frames (core.frames) from
standard input and writes them to standard output; an empty one there says that it is ready.
"""

import contextlib
import resource
import signal
import sys

import msgspec

from dragoman.core.frames import frame, read_frame_from
from dragoman.core.request import ChatPrompt
from dragoman.prompt.sandbox import TemplateError, TemplateRefusal
from dragoman.prompt.template import ChatTemplate, RenderedPrompt

DEADLINE_SECONDS = 2
"""What one rendering may take."""

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
    deadline_seconds: float


class Rendered(msgspec.Struct, frozen=True):
    """What became of a Rendering: a prompt, or why there is none."""

    prompt: RenderedPrompt | None = None
    refusal: str | None = None
    """What the template said to raise_exception."""
    error: str | None = None


def encode(message: Rendering | Rendered) -> bytes:
    """One frame."""
    return frame(msgspec.msgpack.encode(message))


def main() -> None:
    """Answer until standard input ends."""
    with contextlib.suppress(ValueError, OSError):  # Not every system limits address space.
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    _write(frame(b""))
    while (body := read_frame_from(sys.stdin.buffer)) is not None:
        rendering = msgspec.msgpack.decode(body, type=Rendering)
        # The parent kills a process that takes too long. This is for one whose parent has died meanwhile.
        signal.setitimer(signal.ITIMER_REAL, 2 * rendering.deadline_seconds)
        reply = encode(_apply(rendering))
        signal.setitimer(signal.ITIMER_REAL, 0)
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


def _write(written: bytes) -> None:
    sys.stdout.buffer.write(written)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
