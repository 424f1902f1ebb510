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
from dragoman.prompt.template import RESERVED_VARIABLES, ChatTemplate, RenderedPrompt
from dragoman.prompt.template_process import DEADLINE_SECONDS, RenderRequest, RenderResult, encode

MAX_WAITING = 16
"""Requests that wait for their turn or are rendered; one more is refused."""

MAX_SOURCE_BYTES = 64 * 1024

CHARACTERS_PER_TOKEN = 16
"""A prompt with more characters than so many for each token of the context cannot fit."""

_START_SECONDS = 30
"""For the interpreter and its imports, on a busy machine."""

_REPLY_OVERHEAD_BYTES = 64 * 1024
_UTF8_BYTES = 4


class RequestTemplateRenderer:
    """Owns the process, which is started on first use."""

    def __init__(self, *, deadline_seconds: float = DEADLINE_SECONDS) -> None:
        """`deadline_seconds` is what a template has to be rendered in."""
        self._deadline_seconds = deadline_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()
        self._waiting = 0

    async def render(
        self, prompt: ChatPrompt, *, model: ChatTemplate, context_length: int, constrained: bool = False
    ) -> RenderedPrompt:
        """The prompt by its own `template`, or by the model's, with its `template_arguments` as further variables.

        `context_length` is in tokens, `constrained` as for ChatTemplate.render. Raises BadRequest of "chat_template" or
        "chat_template_kwargs", Overloaded when too many wait, EngineFailed when no process can be started.
        """
        _check(prompt)
        request = RenderRequest(
            prompt,
            model.source if prompt.template is None else prompt.template,
            model.bos,
            model.eos,
            model.supports_reasoning,
            CHARACTERS_PER_TOKEN * context_length,
            constrained,
            self._deadline_seconds,
        )
        frame = _frame(request)
        if self._waiting >= MAX_WAITING:
            raise Overloaded("Too many chat templates wait to be rendered", math.ceil(self._deadline_seconds))
        self._waiting += 1
        try:
            async with self._lock:
                result = await self._render_in_process(frame, CHARACTERS_PER_TOKEN * context_length)
        finally:
            self._waiting -= 1
        return _prompt_or_raise(result, "chat_template_kwargs" if prompt.template is None else "chat_template")

    async def close(self) -> None:
        """End the process."""
        async with self._lock:
            await self._kill()

    async def _render_in_process(self, frame: bytes, max_characters: int) -> RenderResult:
        """One answer of the process. Whatever happens before it is there, that process is not used again."""
        process = await self._running_process()
        answered = False
        try:
            async with asyncio.timeout(self._deadline_seconds):
                result = await _send_request(process, frame, max_characters)
            answered = True
        except TimeoutError:
            return RenderResult(error=f"it did not finish within {self._deadline_seconds:g} s")
        except ConnectionError:
            return RenderResult(error="it ended the process that rendered it")
        finally:
            if not answered:
                await self._kill()
        return result

    async def _running_process(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        await self._kill()
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "dragoman.prompt.template_process"),
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
                await self._kill()
        return process

    async def _kill(self) -> None:
        """Kill the process and wait for its end, also when the task is being cancelled."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _check(prompt: ChatPrompt) -> None:
    reserved = sorted(RESERVED_VARIABLES & prompt.template_arguments.keys())
    if reserved:
        raise BadRequest(f"The chat template's variable '{reserved[0]}' cannot be set", "chat_template_kwargs")
    if prompt.template is not None and len(prompt.template.encode()) > MAX_SOURCE_BYTES:
        raise BadRequest(f"The chat template is larger than {MAX_SOURCE_BYTES} bytes", "chat_template")


def _prompt_or_raise(result: RenderResult, parameter: str) -> RenderedPrompt:
    if result.refusal is not None:
        raise BadRequest(f"The chat template refuses these messages: {result.refusal}", parameter)
    if result.prompt is None:
        raise BadRequest(f"The chat template cannot be applied: {result.error}", parameter)
    return result.prompt


def _frame(request: RenderRequest) -> bytes:
    try:
        return encode(request)
    except (OverflowError, RecursionError) as error:
        raise BadRequest(
            f"The chat template's variables cannot be passed on: {error}", "chat_template_kwargs"
        ) from error


async def _send_request(process: asyncio.subprocess.Process, frame: bytes, max_characters: int) -> RenderResult:
    assert process.stdin is not None, "started with a pipe"
    process.stdin.write(frame)
    await process.stdin.drain()
    max_bytes = _UTF8_BYTES * max_characters + _REPLY_OVERHEAD_BYTES
    return msgspec.msgpack.decode(await _read_frame(process, max_bytes), type=RenderResult)


async def _read_frame(process: asyncio.subprocess.Process, max_bytes: int) -> bytes:
    """The next frame's body. A longer one is as good as none: the process is not what it should be any more."""
    assert process.stdout is not None, "started with a pipe"
    try:
        body = await read_frame(process.stdout, max_bytes)
    except FrameTooLong as error:
        raise ConnectionError(str(error)) from error
    if body is None:
        raise ConnectionError("it has ended")
    return body


def _environment() -> dict[str, str]:
    """What the process needs and nothing else: where modules lie, and the time zone for strftime_now."""
    time_zone = {"TZ": os.environ["TZ"]} if "TZ" in os.environ else {}
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **time_zone}
