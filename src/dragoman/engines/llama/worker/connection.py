"""One connection from an HTTP worker to the engine process, and the requests open on it."""

import asyncio
from collections.abc import Callable
from typing import Any

from dragoman.core.errors import DragomanError, EngineFailed
from dragoman.core.events import Event
from dragoman.engines.llama.wire import messages
from dragoman.prompt.template import ChatTemplate


class ConnectionLost:
    """Sent to every open request when the connection ends."""


class EngineConnection:
    """Sends commands, and passes each reply to the request with its number."""

    def __init__(self, handshake: messages.Handshake, writer: asyncio.StreamWriter) -> None:
        self.handshake = handshake
        self.fingerprint: str | None = None
        self.template = ChatTemplate(handshake.chat_template, bos=handshake.bos_text, eos=handshake.eos_text)
        self.event_queues: dict[int, asyncio.Queue[Event | DragomanError | ConnectionLost]] = {}
        self._pending_replies: dict[int, asyncio.Future[Any]] = {}
        self._writer = writer
        self._is_lost = False

    def send(self, command: messages.EngineCommand) -> None:
        """Write one command. Nothing is written to a connection that has just ended, which its reader notices."""
        if not self._writer.is_closing():
            self._writer.write(messages.encode(command))

    async def request_reply(self, command: messages.EngineCommand) -> Any:
        """Send a command that has one reply, and return its value. Raises the error in the reply, or EngineFailed."""
        if self._is_lost:
            raise EngineFailed("The engine stopped")
        pending_reply = self._pending_replies[command.number] = asyncio.get_running_loop().create_future()
        try:
            self.send(command)
            return await pending_reply
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
            case (
                messages.StatisticsReply(number, value)
                | messages.TokenCountReply(number, value)
                | messages.AdapterReply(number, value)
            ):
                self._resolve(number, lambda pending_reply: pending_reply.set_result(value))
            case messages.Handshake():
                raise EngineFailed("the engine process sent a second handshake")
            case messages.ErrorReply():
                self._fail_request(reply.number, reply.error())

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
