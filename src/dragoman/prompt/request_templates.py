"""Chat templates that may take long, rendered in a separate process: those of requests, and models' for long prompts.

The process has limits of time and memory and no secrets in its environment. It is killed and restarted when it
exceeds its deadline. It renders one request at a time, the owners of requests in turn. Models' own templates for long
prompts have a process of their own, since those of requests may be made to take as long as they are allowed to.
"""

import asyncio
import contextlib
import math
import os
import sys
from collections.abc import AsyncIterator
from typing import Self

import msgspec

from dragoman.core.context import new_request_id
from dragoman.core.errors import BadRequest, EngineFailed, Overloaded
from dragoman.core.frames import FrameTooLong, read_frame
from dragoman.core.request import ChatPrompt
from dragoman.core.turns import Turns
from dragoman.prompt.control_tokens import EscapedPrompt
from dragoman.prompt.template import RESERVED_VARIABLES, ChatTemplate, RenderedPrompt, check_documents, restore_prompt
from dragoman.prompt.template_process import DEADLINE_SECONDS, RenderRequest, RenderResult, encode

MAX_WAITING = 64
"""Requests of one process that wait or are being rendered; one more is rejected."""

MAX_SOURCE_BYTES = 64 * 1024

CHARACTERS_PER_TOKEN = 16
"""A prompt with more characters per token of the context than this cannot fit."""

_MAX_CHARACTERS = 64 * 2**20
"""Of a prompt that a model's own template writes."""

_MAX_WAITING_OF_OWNER = 32
"""Requests of one owner that wait; one more is rejected."""

_START_SECONDS = 30
"""The interpreter and its imports, on a busy machine."""

_REPLY_OVERHEAD_BYTES = 64 * 1024
_UTF8_BYTES = 4


class RequestTemplateRenderer:
    """Owns the processes and starts each on first use."""

    def __init__(self, *, deadline_seconds: float = DEADLINE_SECONDS) -> None:
        """Kill a process if a template takes longer than `deadline_seconds`."""
        self._deadline_seconds = deadline_seconds
        self._of_requests = _TemplateProcess(deadline_seconds)
        self._of_models = _TemplateProcess(deadline_seconds)

    async def render(
        self,
        prompt: ChatPrompt,
        *,
        model: ChatTemplate,
        context_length: int,
        constrained: bool = False,
        owner: str | None = None,
    ) -> RenderedPrompt:
        """Render the prompt with its own `template`, or the model's, and its `template_arguments` as variables.

        `context_length` is in tokens, `constrained` as for ChatTemplate.render. `owner` is whose turn it takes; None:
        a turn of its own. Raises BadRequest of "chat_template", "chat_template_kwargs" or "messages", Limited or
        Overloaded if too many requests wait, EngineFailed if no process can be started.
        """
        is_own = prompt.template is None and not prompt.template_arguments
        _check(prompt)
        check_documents(prompt, model.source if prompt.template is None else prompt.template)
        async with (self._of_models if is_own else self._of_requests).turn(owner) as process:
            # Replacing the control tokens of a long text, and putting them back, takes up to a second.
            escaped = await asyncio.to_thread(model.escape, prompt)
            # What a model's own template writes is limited by what the prompt says. The engine measures it.
            max_characters = _MAX_CHARACTERS if is_own else CHARACTERS_PER_TOKEN * context_length
            request = RenderRequest(
                prompt=escaped.prompt,
                source=model.source if prompt.template is None else prompt.template,
                bos=model.bos,
                eos=model.eos,
                supports_reasoning=model.supports_reasoning,
                tool_format=model.configured_tool_format if prompt.template is None else None,
                max_characters=max_characters,
                constrained=constrained,
                deadline_seconds=self._deadline_seconds,
            )
            max_reply_bytes = _UTF8_BYTES * max_characters + _REPLY_OVERHEAD_BYTES
            result = await process.render(_frame(request), max_reply_bytes)
        return await asyncio.to_thread(restore_prompt, escaped, _prompt_or_raise(result, escaped))

    async def close(self) -> None:
        """End the processes."""
        await self._of_requests.close()
        await self._of_models.close()


class _TemplateProcess:
    """One process, which is started on first use, and those that wait for it."""

    def __init__(self, deadline_seconds: float) -> None:
        self._deadline_seconds = deadline_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._turns = Turns(1, _MAX_WAITING_OF_OWNER)
        self._waiting = 0

    @contextlib.asynccontextmanager
    async def turn(self, owner: str | None) -> AsyncIterator[Self]:
        """Have the process for the block. Raises Limited or Overloaded if too many requests wait."""
        if self._waiting >= MAX_WAITING:
            raise Overloaded("Too many chat templates wait to be rendered", math.ceil(self._deadline_seconds))
        self._waiting += 1
        try:
            async with self._turns.turn(new_request_id() if owner is None else owner):
                yield self
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """End the process."""
        async with self._turns.turn(new_request_id()):
            await self._kill()

    async def render(self, frame: bytes, max_reply_bytes: int) -> RenderResult:
        """Send one request and return the reply. A process that gave no reply is killed."""
        process = await self._running_process()
        replied = False
        try:
            async with asyncio.timeout(self._deadline_seconds):
                result = await _send_request(process, frame, max_reply_bytes)
            replied = True
        except TimeoutError:
            return RenderResult(error=f"it did not finish within {self._deadline_seconds:g} s")
        except ConnectionError:
            return RenderResult(error="it ended the process that rendered it")
        finally:
            if not replied:
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
        """Kill the process and wait for its end, even while the task is being cancelled."""
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


def _prompt_or_raise(result: RenderResult, escaped: EscapedPrompt) -> RenderedPrompt:
    subject, parameter = "The chat template", "chat_template"
    if escaped.prompt.template is None:
        parameter = "chat_template_kwargs"
        if not escaped.prompt.template_arguments:
            subject, parameter = "The model's chat template", "messages"
    if result.refusal is not None:
        refusal, _ = escaped.restore(result.refusal)
        raise BadRequest(f"{subject} refuses these messages: {refusal}", parameter)
    if result.prompt is None:
        error, _ = escaped.restore(str(result.error))
        raise BadRequest(f"{subject} cannot be applied: {error}", parameter)
    return result.prompt


def _frame(request: RenderRequest) -> bytes:
    try:
        return encode(request)
    except (OverflowError, RecursionError) as error:
        raise BadRequest(
            f"The chat template's variables cannot be passed on: {error}", "chat_template_kwargs"
        ) from error


async def _send_request(process: asyncio.subprocess.Process, frame: bytes, max_reply_bytes: int) -> RenderResult:
    assert process.stdin is not None, "started with a pipe"
    process.stdin.write(frame)
    await process.stdin.drain()
    return msgspec.msgpack.decode(await _read_frame(process, max_reply_bytes), type=RenderResult)


async def _read_frame(process: asyncio.subprocess.Process, max_bytes: int) -> bytes:
    """Return the next frame's body. Raises ConnectionError if the process has ended or its frame is too long."""
    assert process.stdout is not None, "started with a pipe"
    try:
        body = await read_frame(process.stdout, max_bytes)
    except FrameTooLong as error:
        raise ConnectionError(str(error)) from error
    if body is None:
        raise ConnectionError("it has ended")
    return body


def _environment() -> dict[str, str]:
    """Return only what the process needs: the module path, and the time zone for strftime_now."""
    time_zone = {"TZ": os.environ["TZ"]} if "TZ" in os.environ else {}
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **time_zone}
