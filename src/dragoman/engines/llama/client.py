"""The embedded engine as an HTTP worker sees it: requests over the engine process's Unix socket.

The process may die at any moment. A request that has not given a token yet is sent again when it is back; the others
fail with EngineFailed; none hangs.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from dragoman.core.adapters import Adapter
from dragoman.core.errors import DragomanError, EngineFailed, ModelLoading
from dragoman.core.events import Event, Usage
from dragoman.core.request import ChatPrompt, GenerationRequest, Prompt, TextPrompt, TokenPrompt
from dragoman.engines.base import EngineStatistics
from dragoman.engines.llama import messages
from dragoman.engines.llama.adapter_registry import registry_path
from dragoman.engines.llama.worker_adapters import ChangeCommand, WorkerAdapters
from dragoman.prompt.foreign import RequestTemplateRenderer
from dragoman.prompt.reading import OutputParserSpec
from dragoman.prompt.template import ChatTemplate

RECONNECT_SECONDS = 0.05
"""Between two attempts to reach the process."""

LOADING_PATIENCE_SECONDS = 1.0
"""How long a request waits for a process that was never there: the model may take minutes to load."""

RESTART_PATIENCE_SECONDS = 15.0
"""How long it waits for one that was there before and is being restarted."""

_EVENTS_A_TOKEN = 6
"""At most: a token may end one call's arguments and begin another call's, with text between them."""

ATTEMPTS = 3
"""A request that meets so many deaths of the process may be their cause; it is not sent again."""

_log = structlog.get_logger(__name__)


class _Lost:
    """Put into the mailbox of every open request when the connection ends."""


_LOST = _Lost()
_Mail = Event | DragomanError | _Lost


class _Rendered(NamedTuple):
    """What the process is given for a prompt, and how its answer is to be read."""

    prompt: TextPrompt | TokenPrompt
    reading: OutputParserSpec


class _Connection:
    """One connection to the process, and the requests open on it."""

    def __init__(self, welcome: messages.Welcome, writer: asyncio.StreamWriter) -> None:
        self.welcome = welcome
        self.fingerprint: str | None = None
        self.template = ChatTemplate(welcome.chat_template, bos=welcome.bos_text, eos=welcome.eos_text)
        self.mailboxes: dict[int, asyncio.Queue[_Mail]] = {}
        self.questions: dict[int, asyncio.Future[Any]] = {}
        self._writer = writer

    def send(self, command: messages.Command) -> None:
        """Write one command; a connection that just ended is noticed by its reader."""
        if not self._writer.is_closing():
            self._writer.write(messages.encode(command))

    def deliver(self, reply: messages.Reply) -> None:
        """Pass one reply to whom it concerns; what nobody waits for any more is dropped."""
        match reply:
            case messages.Identified(fingerprint):
                self.fingerprint = fingerprint
            case messages.Output(number, event):
                if number in self.mailboxes:
                    self.mailboxes[number].put_nowait(event)
            case (
                messages.Statistics(number, answer)
                | messages.Counted(number, answer)
                | messages.AdapterChanged(number, answer)
            ):
                if number in self.questions and not self.questions[number].done():
                    self.questions[number].set_result(answer)
            case messages.Welcome():
                raise EngineFailed("the engine process introduced itself twice")
            case refusal:
                self._refuse(refusal.number, refusal.error())

    def _refuse(self, number: int, error: DragomanError) -> None:
        if number in self.mailboxes:
            self.mailboxes[number].put_nowait(error)
        elif number in self.questions and not self.questions[number].done():
            self.questions[number].set_exception(error)

    def end(self) -> None:
        """Tell everyone that nothing more will come."""
        for mailbox in self.mailboxes.values():
            mailbox.put_nowait(_LOST)
        for question in self.questions.values():
            if not question.done():
                question.set_exception(EngineFailed("The engine stopped"))


class LlamaEngine:
    """Implements engines.base.Engine."""

    def __init__(
        self, socket_path: Path, wake: Callable[[], object] | None = None, architecture: str | None = None
    ) -> None:
        """`wake` asks for the process to be started; None: it runs or is being started anyway.

        `architecture` is that of the model, and of its adapters; None: it takes none.
        """
        registry = registry_path(socket_path)
        self._adapters = WorkerAdapters(registry, architecture, self._change_adapters) if architecture else None
        self._socket_path = socket_path
        self._wake = wake
        self._connection: _Connection | None = None
        self._connected = asyncio.Event()
        self._was_ready = False
        self._numbers = itertools.count()
        self._connecting: asyncio.Task[None] | None = None
        self._foreign_templates = RequestTemplateRenderer()

    async def start(self) -> None:
        self._connecting = asyncio.create_task(self._stay_connected())

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._connecting
        await self._foreign_templates.close()

    @property
    def ready(self) -> bool:
        return self._connection is not None or self._wake is not None

    @property
    def context_length(self) -> int | None:
        return self._connection.welcome.context_length if self._connection else None

    @property
    def adapters(self) -> WorkerAdapters | None:
        return self._adapters

    @property
    def thinks(self) -> bool:
        return self._connection is not None and self._connection.template.supports_reasoning

    @property
    def fingerprint(self) -> str | None:
        return self._connection.fingerprint if self._connection else None

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        for attempt in range(1, ATTEMPTS + 1):
            connection = await self._connect()
            answering = False
            async with contextlib.aclosing(self._attempt(connection, request)) as mails:
                async for mail in mails:
                    if isinstance(mail, _Lost):
                        break
                    answering = True
                    yield mail
                else:
                    return
            if answering or attempt == ATTEMPTS:
                raise EngineFailed("The engine stopped while it was answering")

    async def count_tokens(self, prompt: Prompt) -> int:
        connection = await self._connect()
        rendered = await self._render(connection, prompt)
        tokens: int = await self._ask(connection, lambda number: messages.CountTokens(number, rendered.prompt))
        return tokens

    async def statistics(self) -> EngineStatistics:
        if self._connection is None:
            raise EngineFailed("The engine is not running")
        values: EngineStatistics = await self._ask(self._connection, messages.AskStatistics)
        return values

    async def _attempt(self, connection: _Connection, request: GenerationRequest) -> AsyncGenerator[Event | _Lost]:
        """Everything the process says about the request; ends after Usage or _LOST, or raises its refusal."""
        number = next(self._numbers)
        most_events = request.n * _EVENTS_A_TOKEN * connection.welcome.context_length + 2
        mailbox = connection.mailboxes[number] = asyncio.Queue[_Mail](most_events)
        running = False
        try:
            # The mailbox is open already: the connection may end while a template is rendered.
            rendered = await self._render(connection, request.prompt, constrained=_is_constrained(request))
            connection.send(
                messages.Submit(
                    number,
                    rendered.prompt,
                    request.sampling,
                    request.n,
                    request.echo,
                    request.priority,
                    request.logprobs,
                    request.answer_format,
                    request.prompt.tools if isinstance(request.prompt, ChatPrompt) else None,
                    rendered.reading,
                    request.adapter,
                    request.begun,
                )
            )
            running = True
            while running:
                mail = await mailbox.get()
                running = not isinstance(mail, Usage | DragomanError | _Lost)
                if isinstance(mail, DragomanError):
                    raise mail
                yield mail
        finally:
            del connection.mailboxes[number]
            if running:
                connection.send(messages.Cancel(number))

    async def _render(self, connection: _Connection, prompt: Prompt, *, constrained: bool = False) -> _Rendered:
        if not isinstance(prompt, ChatPrompt):
            return _Rendered(prompt, OutputParserSpec())
        if prompt.template is not None or prompt.template_arguments:
            rendered = await self._foreign_templates.render(
                prompt,
                model=connection.template,
                context_length=connection.welcome.context_length,
                constrained=constrained,
            )
        else:
            rendered = connection.template.render(prompt, constrained=constrained)
        return _Rendered(TextPrompt(rendered.text), rendered.parser_spec)

    async def _change_adapters(self, command: Callable[[int], ChangeCommand]) -> Adapter:
        adapter: Adapter = await self._ask(await self._connect(), command)
        return adapter

    async def _ask(self, connection: _Connection, command: Callable[[int], messages.Command]) -> Any:
        """What the process answers to the command with this number. Raises its refusal, or EngineFailed."""
        if connection is not self._connection:
            raise EngineFailed("The engine stopped")
        number = next(self._numbers)
        question = connection.questions[number] = asyncio.get_running_loop().create_future()
        try:
            connection.send(command(number))
            return await question
        finally:
            del connection.questions[number]

    async def _connect(self) -> _Connection:
        """The connection there is, or the next one. Raises ModelLoading when it takes too long to come."""
        patience = RESTART_PATIENCE_SECONDS if self._was_ready or self._wake else LOADING_PATIENCE_SECONDS
        if self._connection is None and self._wake is not None:
            self._wake()
        try:
            async with asyncio.timeout(patience):
                while self._connection is None:
                    await self._connected.wait()
        except TimeoutError:
            raise ModelLoading("The model is being loaded", retry_after=2) from None
        return self._connection

    async def _stay_connected(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._socket_path)
            except (FileNotFoundError, ConnectionError):
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            try:
                await self._read_until_lost(reader, writer)
            except EngineFailed as error:
                _log.error("engine spoke nonsense, connecting anew", reason=error.message)
            finally:
                self._connected.clear()
                if self._connection is not None:
                    connection, self._connection = self._connection, None
                    connection.end()
                writer.close()

    async def _read_until_lost(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (replies := await messages.read_replies(reader)) is not None:
            for reply in replies:
                if self._connection is None and isinstance(reply, messages.Welcome):
                    self._connection = _Connection(reply, writer)
                    self._was_ready = True
                    self._connected.set()
                elif self._connection is not None:
                    self._connection.deliver(reply)
        _log.warning("engine connection lost", socket=self._socket_path.name)


def _is_constrained(request: GenerationRequest) -> bool:
    """Whether a grammar binds the answer from its first character on."""
    tools = request.prompt.tools if isinstance(request.prompt, ChatPrompt) else None
    return request.answer_format is not None or (tools is not None and tools.choice != "auto")
