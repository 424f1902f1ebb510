"""Chat templates that come with a request: anybody's code, rendered in a process of its own.

The process may take time and memory up to a limit, has no secrets in its environment, and is killed and started anew
whenever it is late. One request is rendered at a time.
"""

import asyncio
import contextlib
import math
import os
import sys

import msgspec

from dragoman.core.errors import BadRequest, EngineFailed, Overloaded
from dragoman.core.frames import FrameTooLong, read_frame
from dragoman.core.request import ChatPrompt
from dragoman.prompt.foreign_process import DEADLINE_SECONDS, Rendered, Rendering, encode
from dragoman.prompt.template import OWN_VARIABLES, ChatTemplate, RenderedPrompt

MOST_WAITING = 16
"""Requests that wait for their turn or are rendered; one more is refused."""

LONGEST_SOURCE_BYTES = 64 * 1024

CHARACTERS_PER_TOKEN = 16
"""A prompt with more characters than so many for each token of the context cannot fit."""

_START_SECONDS = 30
"""For the interpreter and its imports, on a busy machine."""

_REPLY_OVERHEAD_BYTES = 64 * 1024
_UTF8_BYTES = 4


class ForeignTemplates:
    """Owns the process, which is started on first use."""

    def __init__(self, *, deadline_seconds: float = DEADLINE_SECONDS) -> None:
        """`deadline_seconds` is what a template has to be rendered in."""
        self._deadline_seconds = deadline_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def render(
        self, prompt: ChatPrompt, *, model: ChatTemplate, context_length: int, constrained: bool = False
    ) -> RenderedPrompt:
        """The prompt by its own `template`, or by the model's, with its `template_arguments` as further variables.

        `context_length` is in tokens, `constrained` as for ChatTemplate.render. Raises BadRequest of "chat_template" or
        "chat_template_kwargs", Overloaded when too many wait, EngineFailed when no process can be started.
        """
        _check(prompt)
        rendering = Rendering(
            prompt,
            model.source if prompt.template is None else prompt.template,
            model.bos,
            model.eos,
            model.thinks,
            CHARACTERS_PER_TOKEN * context_length,
            constrained,
            self._deadline_seconds,
        )
        frame = _frame(rendering)
        if self._waiting >= MOST_WAITING:
            raise Overloaded("Too many chat templates wait to be rendered", math.ceil(self._deadline_seconds))
        self._waiting += 1
        try:
            async with self._turn:
                rendered = await self._exchange(frame, CHARACTERS_PER_TOKEN * context_length)
        finally:
            self._waiting -= 1
        return _prompt_of(rendered, "chat_template_kwargs" if prompt.template is None else "chat_template")

    async def close(self) -> None:
        """End the process."""
        async with self._turn:
            await self._end()

    async def _exchange(self, frame: bytes, most_characters: int) -> Rendered:
        """One answer of the process. Whatever happens before it is there, that process is not used again."""
        process = await self._started()
        answered = False
        try:
            async with asyncio.timeout(self._deadline_seconds):
                rendered = await _ask(process, frame, most_characters)
            answered = True
        except TimeoutError:
            return Rendered(error=f"it did not finish within {self._deadline_seconds:g} s")
        except ConnectionError:
            return Rendered(error="it ended the process that rendered it")
        finally:
            if not answered:
                await self._end()
        return rendered

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        await self._end()
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "dragoman.prompt.foreign_process"),
            env=_environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        ready = False
        try:
            async with asyncio.timeout(_START_SECONDS):
                await _read_frame(process, 0)
            ready = True
        except (TimeoutError, ConnectionError) as error:
            raise EngineFailed("The process that renders chat templates does not start") from error
        finally:
            if not ready:
                await self._end()
        return process

    async def _end(self) -> None:
        """Kill the process and wait for its end, also when the task is being cancelled."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _check(prompt: ChatPrompt) -> None:
    taken = sorted(OWN_VARIABLES & prompt.template_arguments.keys())
    if taken:
        raise BadRequest(f"The chat template's variable '{taken[0]}' cannot be set", "chat_template_kwargs")
    if prompt.template is not None and len(prompt.template.encode()) > LONGEST_SOURCE_BYTES:
        raise BadRequest(f"The chat template is larger than {LONGEST_SOURCE_BYTES} bytes", "chat_template")


def _prompt_of(rendered: Rendered, parameter: str) -> RenderedPrompt:
    if rendered.refusal is not None:
        raise BadRequest(f"The chat template refuses these messages: {rendered.refusal}", parameter)
    if rendered.prompt is None:
        raise BadRequest(f"The chat template cannot be applied: {rendered.error}", parameter)
    return rendered.prompt


def _frame(rendering: Rendering) -> bytes:
    try:
        return encode(rendering)
    except (OverflowError, RecursionError) as error:
        raise BadRequest(
            f"The chat template's variables cannot be passed on: {error}", "chat_template_kwargs"
        ) from error


async def _ask(process: asyncio.subprocess.Process, frame: bytes, most_characters: int) -> Rendered:
    assert process.stdin is not None, "started with a pipe"
    process.stdin.write(frame)
    await process.stdin.drain()
    most_bytes = _UTF8_BYTES * most_characters + _REPLY_OVERHEAD_BYTES
    return msgspec.msgpack.decode(await _read_frame(process, most_bytes), type=Rendered)


async def _read_frame(process: asyncio.subprocess.Process, most_bytes: int) -> bytes:
    """The next frame's body. A longer one is as good as none: the process is not what it should be any more."""
    assert process.stdout is not None, "started with a pipe"
    try:
        body = await read_frame(process.stdout, most_bytes)
    except FrameTooLong as error:
        raise ConnectionError(str(error)) from error
    if body is None:
        raise ConnectionError("it has ended")
    return body


def _environment() -> dict[str, str]:
    """What the process needs and nothing else: where modules lie, and the time zone for strftime_now."""
    time_zone = {"TZ": os.environ["TZ"]} if "TZ" in os.environ else {}
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **time_zone}
