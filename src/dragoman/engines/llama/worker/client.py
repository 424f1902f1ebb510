"""The embedded engine in an HTTP worker: it sends requests over the Unix socket of the engine process.

The process may die or hang at any time. A request without output so far fails with ReplicaFailed, and may be sent
again: it then waits for the process to be back. The others fail with EngineFailed. No request hangs: a process without
heartbeats counts as dead, and one that sends them but forgets a request fails that request after a deadline.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any, cast

from dragoman.core import logs
from dragoman.core.capabilities import ALL_CAPABILITIES
from dragoman.core.child_process import HEARTBEAT_SECONDS
from dragoman.core.errors import (
    DragomanError,
    EngineFailed,
    ModelLoading,
    ModelNotFound,
    ModelUnavailable,
    ReplicaFailed,
)
from dragoman.core.events import Event, Unenforced, Usage
from dragoman.core.models import TokenizedPrompt
from dragoman.core.own_folders import is_own_folder
from dragoman.core.request import QUEUED_PRIORITY_OFFSET, ChatPrompt, GenerationRequest, Prompt
from dragoman.engines.base import EngineStatistics
from dragoman.engines.llama.wire import messages
from dragoman.engines.llama.wire.adapter_registry import registry_path
from dragoman.engines.llama.wire.options import DEFAULT_TIMEOUTS, EngineTimeouts
from dragoman.engines.llama.wire.start_failure import read_start_failure, start_failure_path
from dragoman.engines.llama.worker.adapters import RemoteAdapters
from dragoman.engines.llama.worker.images import ImageIntake, prepare_images
from dragoman.prompt.output_parser import OutputParserSpec
from dragoman.prompt.request_templates import RequestTemplateRenderer
from dragoman.prompt.template import MAX_STEPS_IN_PLACE, ChatTemplate


class ConnectionLost:
    """Sent to every open request when the connection ends."""


class EngineConnection:
    """Sends commands, and passes each reply to the request with its number."""

    def __init__(self, handshake: messages.Handshake, writer: asyncio.StreamWriter, timeouts: EngineTimeouts) -> None:
        self.handshake = handshake
        self.silence: dict[int, float] = {}
        """Seconds since the last event of each request that has a deadline."""
        self._timeouts = timeouts
        self.fingerprint: str | None = None
        self.template = ChatTemplate(
            handshake.chat_template,
            bos=handshake.bos_text,
            eos=handshake.eos_text,
            tool_format=handshake.tool_format,
            special_texts=handshake.special_texts,
            max_steps=MAX_STEPS_IN_PLACE,
        )
        self.tool_format = self.template.tool_format
        self.event_queues: dict[int, asyncio.Queue[Event | DragomanError | ConnectionLost]] = {}
        self._pending_replies: dict[int, asyncio.Future[Any]] = {}
        self._writer = writer
        self._is_lost = False

    def send(self, command: messages.EngineCommand) -> None:
        """Write one command. Nothing is written to a connection that has just ended, which its reader notices."""
        if not self._writer.is_closing():
            self._writer.write(messages.encode(command))

    async def sent(self) -> None:
        """Wait until what was sent has left this process, or the connection has ended."""
        with contextlib.suppress(OSError):
            await self._writer.drain()

    async def request_reply(self, command: messages.EngineCommand) -> Any:
        """Send a command that has one reply, and return its value. Raises the error in the reply, or EngineFailed."""
        if self._is_lost:
            raise EngineFailed("The engine stopped")
        pending_reply = self._pending_replies[command.number] = asyncio.get_running_loop().create_future()
        try:
            self.send(command)
            async with asyncio.timeout(self._timeouts.reply):
                return await pending_reply
        except TimeoutError:
            raise EngineFailed(f"The engine did not answer within {self._timeouts.reply:g} seconds") from None
        finally:
            del self._pending_replies[command.number]

    def dispatch(self, reply: messages.EngineReply) -> None:
        """Pass one reply to its request; drop it if that is no longer open. Raises EngineFailed."""
        match reply:
            case messages.FingerprintReply(fingerprint):
                self.fingerprint = fingerprint
            case messages.EventReply(number, event):
                if number in self.event_queues:
                    self.event_queues[number].put_nowait(event)
                    if number in self.silence:
                        self.silence[number] = 0.0
            case messages.HeartbeatReply():
                pass
            case (
                messages.StatisticsReply(number, value)
                | messages.TokenCountReply(number, value)
                | messages.TokenizedPromptReply(number, value)
                | messages.TextReply(number, value)
                | messages.AdapterReply(number, value)
            ):
                self._resolve(number, lambda pending_reply: pending_reply.set_result(value))
            case messages.Handshake():
                raise EngineFailed("the engine process sent a second handshake")
            case messages.ErrorReply():
                self._fail_request(reply.number, reply.error())

    def add_silence(self, seconds: float) -> None:
        """Note that time has passed, and fail the requests that have waited too long for an event."""
        for number in self.silence:
            self.silence[number] += seconds
            if self.silence[number] >= self._timeouts.event and self.event_queues[number].empty():
                reason = f"The engine sent nothing for {self._timeouts.event:g} seconds"
                self._fail_request(number, EngineFailed(reason))
                self.send(messages.CancelCommand(number))

    def fail_open_requests(self) -> None:
        """Let every open request know that no more replies will arrive."""
        self._is_lost = True
        for event_queue in self.event_queues.values():
            event_queue.put_nowait(ConnectionLost())
        for number in self._pending_replies:
            self._fail_request(number, EngineFailed("The engine stopped"))

    def _fail_request(self, number: int, error: DragomanError) -> None:
        if number in self.event_queues:
            self.event_queues[number].put_nowait(error)
        else:
            self._resolve(number, lambda pending_reply: pending_reply.set_exception(error))

    def _resolve(self, number: int, resolve: Callable[[asyncio.Future[Any]], None]) -> None:
        pending_reply = self._pending_replies.get(number)
        if pending_reply is not None and not pending_reply.done():
            resolve(pending_reply)


RECONNECT_SECONDS = 0.05  # between two attempts to connect to the process

LOADING_TIMEOUT_SECONDS = 1.0
"""How long a request waits for a process that was never connected: the model may take minutes to load."""

RESTART_TIMEOUT_SECONDS = 15.0
"""How long a request waits for a process that was connected before and is being restarted."""

_MAX_EVENTS_PER_TOKEN = 6
"""An upper bound: a token may end the arguments of one call and begin those of another, with text between."""

_log = logs.get_logger(__name__)


class LlamaEngine:
    """Implements engines.base.Engine."""

    def __init__(
        self,
        socket_path: Path,
        request_start: Callable[[], object] | None = None,
        architecture: str | None = None,
        timeouts: EngineTimeouts = DEFAULT_TIMEOUTS,
        images: ImageIntake | None = None,
    ) -> None:
        """`request_start` asks for the process to be started. None if it always runs.

        `architecture` is that of the model and its adapters, `images` what bounds images. None if it takes none.
        """
        self.capabilities = ALL_CAPABILITIES - {"verbosity"} - ({"images"} if images is None else set())
        self._images = images
        self._timeouts = timeouts
        self._failure_path = start_failure_path(socket_path)
        self._silent_seconds = 0.0  # since the last frame of the process
        registry = registry_path(socket_path)
        self.adapters = RemoteAdapters(registry, architecture, self._request) if architecture else None
        self._socket_path = socket_path
        self._request_start = request_start
        self._connection: EngineConnection | None = None
        self._changed = asyncio.Event()
        """Set while the process is connected or cannot be started."""
        self._was_ever_ready = False
        self._numbers = itertools.count()
        self._connection_task: asyncio.Task[None] | None = None
        self._request_templates = RequestTemplateRenderer()

    async def start(self) -> None:
        self._connection_task = asyncio.create_task(self._stay_connected())

    async def close(self) -> None:
        if self._connection_task is not None:
            self._connection_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._connection_task
        await self._request_templates.close()

    @property
    def ready(self) -> bool:
        if self._connection is None:
            return self._request_start is not None and self.failure is None
        return self._silent_seconds < self._timeouts.ready

    @property
    def failure(self) -> str | None:
        failure = read_start_failure(self._failure_path) if self._connection is None else None
        return None if failure is None else failure.reason

    @property
    def context_length(self) -> int | None:
        return self._connection.handshake.context_length if self._connection else None

    @property
    def supports_reasoning(self) -> bool:
        return self._connection is not None and self._connection.template.supports_reasoning

    @property
    def tool_format(self) -> str | None:
        return self._connection.tool_format if self._connection else None

    @property
    def fingerprint(self) -> str | None:
        return self._connection.fingerprint if self._connection else None

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        connection = await self._wait_for_connection()
        number = next(self._numbers)
        max_events = request.n * _MAX_EVENTS_PER_TOKEN * connection.handshake.context_length + 2
        event_queue = connection.event_queues[number] = asyncio.Queue(max_events)
        if request.priority < QUEUED_PRIORITY_OFFSET:
            connection.silence[number] = 0.0
        is_running = has_output = False
        try:
            # The queue is open already: the connection may end while a template is rendered.
            connection.send(await self._generate_command(connection, number, request))
            is_running = True
            while is_running:
                message = await event_queue.get()
                is_running = not isinstance(message, Usage | DragomanError | ConnectionLost)
                if isinstance(message, ModelNotFound):
                    raise ModelNotFound(request.model)  # The process knows the adapter by its qualified name.
                if isinstance(message, DragomanError):
                    raise message
                if isinstance(message, ConnectionLost):
                    failure = EngineFailed if has_output else ReplicaFailed
                    raise failure("The engine stopped while it was answering")
                has_output = has_output or not isinstance(message, Unenforced)
                yield message
        finally:
            del connection.event_queues[number]
            connection.silence.pop(number, None)
            if is_running:
                connection.send(messages.CancelCommand(number))

    async def count_tokens(self, prompt: Prompt) -> int:
        return int(await self._tokenize(prompt, messages.CountTokensCommand))

    async def tokenize(self, prompt: Prompt) -> TokenizedPrompt:
        return cast(TokenizedPrompt, await self._tokenize(prompt, messages.TokenizeCommand))

    async def _tokenize(self, prompt: Prompt, command: Callable[..., messages.EngineCommand]) -> Any:
        connection = await self._wait_for_connection()
        rendered, _ = await self._render(connection, prompt)
        return await connection.request_reply(command(next(self._numbers), rendered))

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return str(await self._request(lambda number: messages.DetokenizeCommand(number, tuple(token_ids))))

    async def statistics(self) -> EngineStatistics:
        if self._connection is None:
            raise EngineFailed("The engine is not running")
        reply = await self._connection.request_reply(messages.StatisticsCommand(next(self._numbers)))
        return cast(EngineStatistics, reply)

    async def _generate_command(
        self, connection: EngineConnection, number: int, request: GenerationRequest
    ) -> messages.GenerateCommand:
        rendered, output_format = await self._render(
            connection, request.prompt, constrained=request.response_format is not None, owner=request.owner or None
        )
        return messages.GenerateCommand(
            number=number,
            prompt=rendered,
            sampling=request.sampling,
            n=request.n,
            echo=request.echo,
            priority=request.priority,
            logprobs=request.logprobs,
            response_format=request.response_format,
            tools=request.prompt.tools if isinstance(request.prompt, ChatPrompt) else None,
            output_format=output_format,
            adapter=request.adapter,
            resume_token_ids=request.resume_token_ids,
            owner=request.owner,
            cache_salt=request.cache_salt,
            prompt_logprobs=request.prompt_logprobs,
            reports_prompt=request.reports_prompt,
            is_buffered=request.is_buffered,
        )

    async def _render(
        self, connection: EngineConnection, prompt: Prompt, *, constrained: bool = False, owner: str | None = None
    ) -> tuple[messages.EnginePrompt, OutputParserSpec]:
        """Return the prompt for the process, and the format of its answer."""
        if not isinstance(prompt, ChatPrompt):
            return prompt, OutputParserSpec()
        images = None if self._images is None else prepare_images(prompt, self._images, owner or "")
        prompt = prompt if images is None else images.prompt
        rendered = connection.template.render_in_place(
            prompt, constrained=constrained
        ) or await self._request_templates.render(
            prompt,
            model=connection.template,
            context_length=connection.handshake.context_length,
            constrained=constrained,
            owner=owner,
        )
        if images is not None:
            return await images.place(rendered, connection.sent), rendered.parser_spec
        text = messages.rendered_prompt(rendered.text, rendered.literal_offsets, prompt.truncation)
        return text, rendered.parser_spec

    async def _request(self, command: Callable[[int], messages.EngineCommand]) -> Any:
        connection = await self._wait_for_connection()
        return await connection.request_reply(command(next(self._numbers)))

    async def _wait_for_connection(self) -> EngineConnection:
        """Return the current connection, or wait for the next one.

        Raises ModelUnavailable if the process cannot be started, and ModelLoading if that takes too long.
        """
        timeout = RESTART_TIMEOUT_SECONDS if self._was_ever_ready or self._request_start else LOADING_TIMEOUT_SECONDS
        if self._connection is None and self._request_start is not None:
            self._request_start()
        try:
            async with asyncio.timeout(timeout):
                while self._connection is None:
                    await self._changed.wait()
                    if self._connection is None:
                        if (failure := read_start_failure(self._failure_path)) and failure.retry_after:
                            raise ModelUnavailable("The model cannot be loaded at present", failure.retry_after)
                        self._changed.clear()
        except TimeoutError:
            raise ModelLoading("The model is being loaded", retry_after=2) from None
        return self._connection

    async def _stay_connected(self) -> None:
        while True:
            try:
                if not is_own_folder(self._socket_path.parent):
                    raise FileNotFoundError(self._socket_path)  # Whoever took its path would get the prompts.
                async with asyncio.timeout(self._timeouts.heartbeat):
                    reader, writer = await asyncio.open_unix_connection(self._socket_path)
            except OSError:  # TimeoutError too: a process that is stopped accepts nothing.
                if self._failure_path.exists():
                    self._changed.set()
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            watch = asyncio.create_task(self._watch(writer))
            try:
                await self._read_until_lost(reader, writer)
            except EngineFailed as error:
                _log.error("engine_protocol_error", reason=error.message, reconnecting=True)
            finally:
                watch.cancel()
                self._changed.clear()
                if self._connection is not None:
                    connection, self._connection = self._connection, None
                    connection.fail_open_requests()
                writer.close()

    async def _watch(self, writer: asyncio.StreamWriter) -> None:
        """Cut a silent connection. A turn counts as at most its own length, even if this process was stopped."""
        self._silent_seconds = 0.0
        turn_seconds = min(HEARTBEAT_SECONDS, self._timeouts.heartbeat / 4)
        while self._silent_seconds < self._timeouts.heartbeat:
            await asyncio.sleep(turn_seconds)
            self._silent_seconds += turn_seconds
            if self._connection is not None:
                self._connection.add_silence(turn_seconds)
        _log.error("engine_hung", socket=self._socket_path.name, silent_seconds=self._silent_seconds)
        writer.transport.abort()

    async def _read_until_lost(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (replies := await messages.read_replies(reader)) is not None:
            self._silent_seconds = 0.0
            for reply in replies:
                if self._connection is None and isinstance(reply, messages.Handshake):
                    self._connection = EngineConnection(reply, writer, self._timeouts)
                    self._was_ever_ready = True
                    self._changed.set()
                elif self._connection is not None:
                    self._connection.dispatch(reply)
        _log.warning("engine_connection_lost", socket=self._socket_path.name)
