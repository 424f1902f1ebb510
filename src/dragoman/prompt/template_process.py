"""A process that renders templates one after another and may be killed at any moment.

RequestTemplateRenderer starts it as `python -m dragoman.prompt.template_process`. It reads frames (core.frames) from
standard input and writes them to standard output. An empty frame reports that the process is ready.
"""

import contextlib
import functools
import resource
import signal
import sys

import msgspec

from dragoman.core.child_process import end_with_parent
from dragoman.core.frames import encode_frame, read_frame_blocking
from dragoman.core.request import ChatPrompt
from dragoman.output.markup import ToolFormatName
from dragoman.prompt.sandbox import TemplateError, TemplateRefusal
from dragoman.prompt.template import ChatTemplate, RenderedPrompt

DEADLINE_SECONDS = 2
"""Limit for rendering one template."""

_CACHED_TEMPLATES = 8
"""Compiling a template takes longer than rendering it."""

_MEMORY_BYTES = 512 * 2**20
"""Limit of the address space, including the interpreter."""


class RenderRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A template and the conversation to render with it."""

    prompt: ChatPrompt
    """Has the variables in its `template_arguments`."""
    source: str
    bos: str
    eos: str
    supports_reasoning: bool
    tool_format: ToolFormatName | None
    """None: the template shows it."""
    max_characters: int
    constrained: bool
    deadline_seconds: float


class RenderResult(msgspec.Struct, frozen=True):
    """The reply to a RenderRequest: a prompt, or the reason why there is none."""

    prompt: RenderedPrompt | None = None
    refusal: str | None = None
    """The message that the template passed to raise_exception."""
    error: str | None = None


def encode(message: RenderRequest | RenderResult) -> bytes:
    """Return the message as one frame."""
    return encode_frame(msgspec.msgpack.encode(message))


def main() -> None:
    """Render requests until standard input ends."""
    end_with_parent()
    with contextlib.suppress(ValueError, OSError):  # Not every system can limit the address space.
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    _write(encode_frame(b""))
    while (body := read_frame_blocking(sys.stdin.buffer)) is not None:
        request = msgspec.msgpack.decode(body, type=RenderRequest)
        # The parent kills a process that exceeds its deadline. The timer ends one whose parent has died.
        signal.setitimer(signal.ITIMER_REAL, 2 * request.deadline_seconds)
        reply = encode(_apply(request))
        signal.setitimer(signal.ITIMER_REAL, 0)
        _write(reply)


@functools.lru_cache(_CACHED_TEMPLATES)
def _template(
    source: str, *, bos: str, eos: str, supports_reasoning: bool, tool_format: ToolFormatName | None
) -> ChatTemplate:
    return ChatTemplate(source, bos=bos, eos=eos, supports_reasoning=supports_reasoning, tool_format=tool_format)


def _apply(request: RenderRequest) -> RenderResult:
    template = _template(
        request.source,
        bos=request.bos,
        eos=request.eos,
        supports_reasoning=request.supports_reasoning,
        tool_format=request.tool_format,
    )
    try:
        prompt = template.apply(
            request.prompt,
            request.prompt.template_arguments,
            constrained=request.constrained,
            max_characters=request.max_characters,
        )
    except TemplateRefusal as refusal:
        return RenderResult(refusal=str(refusal))
    except TemplateError as error:
        return RenderResult(error=str(error))
    return RenderResult(prompt)


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
