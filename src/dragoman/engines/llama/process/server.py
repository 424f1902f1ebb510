"""The socket of the engine process, on an event loop, beside the stepper on a thread of its own."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial

from dragoman import __version__
from dragoman.core import logs
from dragoman.core.child_process import HEARTBEAT_SECONDS
from dragoman.core.errors import DragomanError, EngineFailed
from dragoman.core.events import Unenforced, Usage
from dragoman.core.garbage_collection import freeze_startup_objects
from dragoman.core.own_folders import is_missing_in_own_folder
from dragoman.core.request import QUEUED_PRIORITY_OFFSET
from dragoman.engines.base import EngineStatistics
from dragoman.engines.fingerprint import fingerprint
from dragoman.engines.llama.batching.batcher import RequestOutput
from dragoman.engines.llama.batching.sequence import RequestKey
from dragoman.engines.llama.native.backend import Backend
from dragoman.engines.llama.native.image_projector import ImageProjector
from dragoman.engines.llama.native.model import Model
from dragoman.engines.llama.native.parallel_contexts import ParallelContexts
from dragoman.engines.llama.process.adapter_changes import AdapterChanges
from dragoman.engines.llama.process.image_queue import ImageQueue, image_task
from dragoman.engines.llama.process.preprocessor import RequestPreprocessor, TokenizerThread
from dragoman.engines.llama.process.public_prefixes import public_prefixes
from dragoman.engines.llama.process.saved_prefixes import cells_fingerprint, saved_prefixes
from dragoman.engines.llama.process.served_adapters import AdapterManager
from dragoman.engines.llama.process.turn_end import turn_end_tokens
from dragoman.engines.llama.process.workloads import (
    PreparedRequest,
    Workload,
    embedding_workload,
    generation_stepper,
    image_tokenizer,
    no_embeddings,
    require_tool_format,
    tokenized,
)
from dragoman.engines.llama.weights.digests import DigestComputation
from dragoman.engines.llama.wire import messages
from dragoman.engines.llama.wire.options import EngineOptions

_log = logs.get_logger(__name__)

_MAX_UNSENT_BYTES = 64 * 2**20
"""With more unsent bytes, a worker that does not read is considered dead."""

_IDLE_CHECK_SECONDS = 0.1
"""How often a process past its idle time checks whether the last request has ended."""


class EngineServer:
    """Accepts workers' connections and passes their commands to the stepper."""

    def __init__(
        self,
        model: Model,
        backend: Backend | ParallelContexts,
        adapters: AdapterManager,
        options: EngineOptions,
        digest_computation: DigestComputation,
        projector: ImageProjector | None = None,
    ) -> None:
        """`digest_computation` reads the files that determine what is computed: the model, the projector, the library.

        `projector`: None if the model takes no images.
        """
        self._model = model
        self._adapters = adapters
        self._options = options
        self._projector = projector
        self._chat_template = options.chat_template or model.chat_template
        require_tool_format(self._chat_template, options)
        self._digest_computation = digest_computation
        self._fingerprint: str | None = None
        if isinstance(backend, ParallelContexts):
            self._workload = embedding_workload(model, backend, options, self._publish_from_thread)
        else:
            self._workload = self._generation_workload(backend)
        self._stepper = self._workload.stepper
        self._adapter_changes = AdapterChanges(adapters, self._stepper, self._note_activity)
        self._saved = self._workload.saved_prefixes
        self._tokenizer = TokenizerThread()
        self._images = ImageQueue(options.max_sequences + options.max_waiting)
        self._detached: set[asyncio.Task[None]] = set()
        """The tasks of commands, which do not delay the other commands of their connection."""
        self._connections: dict[int, _WorkerConnection] = {}
        self._last_activity = time.monotonic()
        self._is_unloading = asyncio.Event()
        self._next_connection = 0

    @property
    def is_working(self) -> bool:
        """Whether the current step has not taken too long. May be read from any thread."""
        return self._stepper.busy_seconds < self._options.step_timeout_seconds

    def _generation_workload(self, backend: Backend) -> Workload:
        options, vocabulary = self._options, self._model.vocabulary
        vocabulary.end_token_ids |= turn_end_tokens(vocabulary, self._chat_template)
        images = image_tokenizer(self._model, self._projector, options)
        prefixes = public_prefixes(vocabulary, self._chat_template, options)
        preprocessor = RequestPreprocessor(self._model, backend.cells, prefixes, images)
        saved = saved_prefixes(options, self._adapters, backend)
        stepper = generation_stepper(
            self._model, backend, options, saved, self._publish_from_thread, watch=self._adapters
        )

        def prepare(key: RequestKey, command: messages.RequestCommand) -> PreparedRequest:
            if isinstance(command, messages.EmbedCommand):
                raise no_embeddings()
            request = preprocessor.preprocess(key, command)

            def start() -> None:
                # Only now: no adapter can be removed between this and the request's place in the queue.
                if command.adapter is not None:
                    request.adapter = self._adapters.number_of(command.adapter)
                seed = command.sampling.seed
                stepper.add(request, command.n, secrets.randbits(64) if seed is None else seed)

            prefix = None if saved is None else saved.query(request, command.adapter)
            return PreparedRequest(start, request.unenforced, prefix)

        return Workload(preprocessor, stepper, prepare, saved_prefixes=saved)

    def unload(self) -> None:
        """End `run` as soon as no request runs, as if the idle time were over."""
        self._is_unloading.set()

    async def run(self, ended: asyncio.Event, on_ready: Callable[[], None]) -> None:
        """Serve until `ended` is set or the idle time is over. Raises DecodeError when the model's state is lost.

        `on_ready` is called when requests can arrive.
        """
        self._loop = asyncio.get_running_loop()
        listener = await self._listen()
        step_task = asyncio.create_task(asyncio.to_thread(self._stepper.run))
        wait_task = asyncio.create_task(self._wait_until_ended_or_idle(ended))
        background_tasks = (
            wait_task,
            asyncio.create_task(self._send_fingerprint()),
            asyncio.create_task(self._send_heartbeats(listener)),
        )
        try:
            freeze_startup_objects()
            on_ready()
            await asyncio.wait((step_task, wait_task), return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Whatever happened: the process cannot end while the stepper's thread waits for commands.
            self._stepper.stop()
            for task in background_tasks:
                task.cancel()
            await asyncio.wait(background_tasks)
            await self._close_connections(step_task)
        await (step_task if self._saved is None else self._saved.finish(step_task))

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_unix_server(self._serve_connection, self._options.socket_path)

    async def _send_heartbeats(self, listener: asyncio.Server) -> None:
        """Send heartbeats to all workers. Listen again, and write the registry again, if somebody removed the folder.

        Connections outlive the socket's file, but new workers need it.
        """
        try:
            while True:
                await asyncio.sleep(HEARTBEAT_SECONDS)
                for connection in self._connections.values():
                    connection.send([messages.HeartbeatReply()])
                if is_missing_in_own_folder(self._options.socket_path):
                    with contextlib.suppress(OSError):
                        self._adapters.write_registry()
                        renewed = await self._listen()
                        listener.close()
                        listener = renewed
        finally:
            listener.close()

    async def _close_connections(self, step_task: asyncio.Task[None]) -> None:
        """Close the connections and wait for the last step, but not for workers that do not read."""
        for connection in self._connections.values():
            connection.close()
        for task in (*self._adapter_changes.tasks, *self._detached):
            task.cancel()
        await asyncio.wait((step_task, *self._adapter_changes.tasks, *self._detached))
        for connection in self._connections.values():
            connection.abort()

    async def _send_fingerprint(self) -> None:
        """Send the fingerprint to all workers when it is known."""
        try:
            digests = await self._digest_computation.digests()
        except OSError as error:
            _log.warning("fingerprint_not_computed", reason=str(error))
            if self._saved is not None:
                await self._saved.open(None)
            return
        options = self._options
        self._fingerprint = fingerprint(
            __version__, digests, self._chat_template, options.reproducible, options.tool_format
        )
        for connection in self._connections.values():
            connection.send([messages.FingerprintReply(self._fingerprint)])
        if self._saved is not None:
            await self._saved.open(cells_fingerprint(digests, options))

    async def _wait_until_ended_or_idle(self, ended: asyncio.Event) -> None:
        """Wait until `ended` is set, or no request has arrived for the idle time, or none runs when it is unloaded."""
        waiting = [asyncio.create_task(event.wait()) for event in (ended, self._is_unloading)]
        try:
            while not ended.is_set():
                remaining_seconds = self._seconds_until_unloaded()
                if remaining_seconds is not None and remaining_seconds <= 0 and not self._is_busy:
                    return
                timeout = None if remaining_seconds is None else max(remaining_seconds, _IDLE_CHECK_SECONDS)
                events = [task for task in waiting if not task.done()]
                await asyncio.wait(events, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    def _seconds_until_unloaded(self) -> float | None:
        """Return the time until the process ends if no request arrives. None: it stays."""
        if self._is_unloading.is_set():
            return 0.0
        idle = self._options.unload_idle_seconds
        return None if idle is None else self._last_activity + idle - time.monotonic()

    @property
    def _is_busy(self) -> bool:
        return bool(self._adapter_changes.tasks) or any(each.open_requests for each in self._connections.values())

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _WorkerConnection(self._next_connection, writer)
        self._next_connection += 1
        self._connections[connection.number] = connection
        vocabulary = self._model.vocabulary
        replies: list[messages.EngineReply] = [
            messages.Handshake(
                context_length=self._workload.tokenizer.context_length,
                chat_template=self._chat_template,
                bos_text=vocabulary.bos_text,
                eos_text=vocabulary.eos_text,
                special_texts=vocabulary.control_tokens.texts,
                tool_format=self._options.tool_format,
                embedding_dimensions=self._workload.embedding_dimensions,
            )
        ]
        if self._fingerprint is not None:
            replies.append(messages.FingerprintReply(self._fingerprint))
        connection.send(replies)
        try:
            while (command := await messages.read_command(reader)) is not None:
                await self._handle(connection, command)
        finally:
            del self._connections[connection.number]
            for number in connection.open_requests:
                self._stepper.cancel((connection.number, number))
            connection.open_requests.clear()
            connection.close()

    async def _handle(self, connection: "_WorkerConnection", command: messages.EngineCommand) -> None:
        match command:
            case messages.GenerateCommand() | messages.EmbedCommand():
                self._open_request(connection, command)
            case messages.CancelCommand():
                connection.close_request(command.number)
                self._stepper.cancel((connection.number, command.number))
            case messages.StatisticsCommand():
                self._stepper.request_statistics(partial(self._send_statistics_from_thread, connection, command.number))
            case messages.AddAdapterCommand() | messages.RemoveAdapterCommand():
                self._adapter_changes.start(command, connection.send)
            case _:
                self._start_detached(self._tokenize(connection, command))

    def _open_request(self, connection: "_WorkerConnection", command: messages.RequestCommand) -> None:
        self._last_activity = time.monotonic()
        connection.open_request(command)
        prepare = partial(self._workload.prepare, (connection.number, command.number), command)

        def is_wanted() -> bool:
            return command.number in connection.open_requests

        preparation: Awaitable[PreparedRequest | None]
        if isinstance(command, messages.GenerateCommand) and isinstance(command.prompt, messages.ImagePrompt):
            preparation = self._images.run(image_task(command, command.prompt, is_wanted), prepare)
        else:
            is_queued = command.priority >= QUEUED_PRIORITY_OFFSET
            preparation = self._tokenizer.run(command.owner, prepare, is_wanted, is_queued=is_queued)
        self._start_detached(self._submit(connection, command, preparation))

    async def _tokenize(self, connection: "_WorkerConnection", command: messages.TokenizingCommand) -> None:
        def is_wanted() -> bool:
            return connection.number in self._connections

        try:
            # Whose it is, is not known: all of them are as one owner's.
            reply = await self._tokenizer.run("", partial(tokenized, self._workload.tokenizer, command), is_wanted)
        except Exception as error:  # noqa: BLE001 - as above
            reply = messages.error_reply(command.number, _translated(error))
        if reply is not None:
            connection.send([reply])

    async def _submit(
        self,
        connection: "_WorkerConnection",
        command: messages.RequestCommand,
        preparation: Awaitable[PreparedRequest | None],
    ) -> None:
        try:
            prepared = await preparation
            if prepared is None or command.number not in connection.open_requests:
                return  # It was cancelled meanwhile.
            if prepared.unenforced:  # Before the stepper's thread can send any output.
                connection.send([messages.EventReply(command.number, Unenforced(0, list(prepared.unenforced)))])
            if prepared.prefix is None:
                prepared.start()
            else:
                self._start_detached(self._start_restored(connection, command.number, prepared))
        except Exception as error:  # noqa: BLE001 - a defect fails the request, which would wait for ever
            connection.close_request(command.number)
            connection.send([messages.error_reply(command.number, _translated(error))])

    async def _start_restored(self, connection: "_WorkerConnection", number: int, prepared: PreparedRequest) -> None:
        """Start a request once the prefix that was saved for it is in host memory."""
        assert self._saved is not None
        assert prepared.prefix is not None
        await self._saved.restore(prepared.prefix)
        if number in connection.open_requests:
            try:
                prepared.start()
            except DragomanError as error:
                connection.close_request(number)
                connection.send([messages.error_reply(number, error)])

    def _start_detached(self, work: Coroutine[None, None, None]) -> None:
        """Run what would delay the other commands of its connection in a task of its own."""
        task = asyncio.create_task(work)
        self._detached.add(task)
        task.add_done_callback(self._detached.discard)

    def _publish_from_thread(self, published: list[RequestOutput]) -> None:
        """Send what a step has computed. The event loop is woken only for requests that have ended."""
        frames: dict[int, list[messages.EngineReply]] = {}
        ended: list[RequestKey] = []
        for key, event in published:
            frames.setdefault(key[0], []).append(messages.event_reply(key[1], event))
            if isinstance(event, DragomanError | Usage):
                ended.append(key)
        for number, replies in frames.items():
            if (connection := self._connections.get(number)) is not None:
                connection.publish(replies)
        if ended:
            self._loop.call_soon_threadsafe(self._note_ended, ended)

    def _note_activity(self) -> None:
        self._last_activity = time.monotonic()

    def _note_ended(self, ended: list[RequestKey]) -> None:
        self._note_activity()
        for connection, number in ended:
            if connection in self._connections:
                self._connections[connection].close_request(number)

    def _send_statistics_from_thread(
        self, connection: "_WorkerConnection", number: int, values: EngineStatistics
    ) -> None:
        connection.send([messages.StatisticsReply(number, values)])


def _translated(error: Exception) -> DragomanError:
    if isinstance(error, DragomanError):
        return error
    _log.error("unexpected_error", exc_info=error)
    return EngineFailed("The engine could not prepare the request")


class _WorkerConnection(messages.ReplySender):
    """The connection of one HTTP worker."""

    def __init__(self, number: int, writer: asyncio.StreamWriter) -> None:
        super().__init__(writer, _MAX_UNSENT_BYTES)
        self.number = number
        self.open_requests: set[int] = set()

    def open_request(self, command: messages.RequestCommand) -> None:
        """Note that a request has arrived. The next command may cancel it."""
        self.open_requests.add(command.number)
        if isinstance(command, messages.GenerateCommand) and command.is_buffered:
            self.buffered.add(command.number)

    def close_request(self, number: int) -> None:
        """Note that a request has ended."""
        self.open_requests.discard(number)
        self.buffered.discard(number)
