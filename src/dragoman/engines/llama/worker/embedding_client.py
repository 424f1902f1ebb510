"""The embedded engine of a model for embeddings or reranking, in an HTTP worker."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from dragoman.core.embedding import EmbeddingInput, EmbeddingRequest
from dragoman.core.errors import DragomanError, EngineFailed
from dragoman.core.events import Embedding, Event, Usage
from dragoman.core.request import QUEUED_PRIORITY_OFFSET
from dragoman.engines.llama.wire import messages
from dragoman.engines.llama.worker.client import MAX_ATTEMPTS, ConnectionLost, EngineConnection, LlamaEngine


class LlamaEmbeddingEngine(LlamaEngine):
    """Implements engines.base.EmbeddingEngine."""

    async def count_input_tokens(self, inputs: Sequence[EmbeddingInput], parameter: str) -> int:
        connection = await self._wait_for_connection()
        command = messages.CountInputTokensCommand(next(self._numbers), tuple(inputs), parameter)
        return int(await connection.request_reply(command))

    async def embed(self, request: EmbeddingRequest) -> AsyncGenerator[Event]:
        for _ in range(MAX_ATTEMPTS):
            received = await self._embed_once(await self._wait_for_connection(), request)
            if received is not None:
                for event in received:
                    yield event
                return
        raise EngineFailed("The engine stopped while it computed embeddings")

    async def _embed_once(self, connection: EngineConnection, request: EmbeddingRequest) -> list[Event] | None:
        """Return all events, the vectors in the order of the inputs. None if the connection was lost."""
        number = next(self._numbers)
        event_queue = connection.event_queues[number] = asyncio.Queue(len(request.inputs) + 2)
        if request.priority < QUEUED_PRIORITY_OFFSET:
            connection.silence[number] = 0.0
        vectors: dict[int, Embedding] = {}
        is_running = True
        try:
            connection.send(
                messages.EmbedCommand(
                    number=number,
                    inputs=request.inputs,
                    parameter=request.parameter,
                    dimensions=request.dimensions,
                    activation=request.activation,
                    priority=request.priority,
                    owner=request.owner,
                )
            )
            while True:
                message = await event_queue.get()
                is_running = isinstance(message, Embedding)
                if isinstance(message, Embedding):
                    vectors[message.index] = message
                elif isinstance(message, Usage):
                    return [*(vectors[index] for index in range(len(request.inputs))), message]
                elif isinstance(message, ConnectionLost):
                    return None
                elif isinstance(message, DragomanError):
                    raise message
        finally:
            del connection.event_queues[number]
            connection.silence.pop(number, None)
            if is_running:
                connection.send(messages.CancelCommand(number))
