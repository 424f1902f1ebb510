"""Workers' commands about adapters, which load slowly and must not delay other commands."""

import asyncio
from collections.abc import Awaitable, Callable

from dragoman.core.errors import BadRequest, ModelNotFound, Overloaded
from dragoman.engines.llama.process.served_adapters import AdapterManager
from dragoman.engines.llama.process.stepper import CommandThread, Stepper
from dragoman.engines.llama.wire import messages
from dragoman.engines.llama.wire.adapter_registry import AdapterRecord


class AdapterChanges:
    """Runs each change of an adapter in a task of its own."""

    def __init__(self, adapters: AdapterManager, stepper: CommandThread, on_end: Callable[[], None]) -> None:
        """`on_end` is called before the reply to a change."""
        self._adapters = adapters
        self._stepper = stepper
        self._on_end = on_end
        self.tasks: set[asyncio.Task[None]] = set()
        """Of the running changes."""

    def start(
        self,
        command: messages.AddAdapterCommand | messages.RemoveAdapterCommand,
        send: Callable[[list[messages.EngineReply]], None],
    ) -> None:
        """Begin a change. Its reply is sent when it is done."""
        task = asyncio.create_task(self._reply(command, send))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _reply(
        self,
        command: messages.AddAdapterCommand | messages.RemoveAdapterCommand,
        send: Callable[[list[messages.EngineReply]], None],
    ) -> None:
        number = command.number
        try:
            reply: messages.EngineReply = messages.AdapterReply(number, (await self._change(command)).adapter)
        except (BadRequest, ModelNotFound) as error:
            reply = messages.error_reply(number, error)
        except OSError as error:  # The registry cannot be written: the disk is full, or the folder is gone.
            reply = messages.error_reply(number, Overloaded(f"adapters cannot be changed: {error.strerror}", 60))
        self._on_end()
        send([reply])

    def _change(self, command: messages.AddAdapterCommand | messages.RemoveAdapterCommand) -> Awaitable[AdapterRecord]:
        if not isinstance(self._stepper, Stepper):
            raise BadRequest("the model takes no adapters", "model")
        match command:
            case messages.AddAdapterCommand(_, record):
                return self._adapters.add(record, self._stepper)
            case messages.RemoveAdapterCommand(_, name):
                return self._adapters.remove(name, self._stepper)
