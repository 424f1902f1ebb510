"""The embedded engine of a model for embeddings or reranking, in an HTTP worker."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from dragoman.core.embedding import EmbeddingRequest, ModelKind
from dragoman.core.errors import DragomanError, ReplicaFailed
from dragoman.core.events import Embedding, Event, Usage
from dragoman.core.request import QUEUED_PRIORITY_OFFSET
from dragoman.engines.base import Embeds
from dragoman.engines.llama.wire import messages
from dragoman.engines.llama.wire.options import DEFAULT_TIMEOUTS, EngineTimeouts
from dragoman.engines.llama.worker.client import ConnectionLost, EngineConnection, LlamaEngine


class LlamaEmbeddingEngine(LlamaEngine, Embeds):
    """Implements engines.base.Engine and Embeds."""

    capabilities = frozenset({"exact_token_counts", "tokenize"})

    def __init__(
        self,
        socket_path: Path,
        kind: ModelKind = "embeddings",
        *,
        request_start: Callable[[], object] | None = None,
        timeouts: EngineTimeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        super().__init__(socket_path, request_start, timeouts=timeouts)
        self.model_kind = kind

    @property
    def embedding_dimensions(self) -> int | None:
        return self._connection.handshake.embedding_dimensions if self._connection else None

    async def count_input_tokens(self, request: EmbeddingRequest) -> int:
        connection = await self._wait_for_connection()
        command = messages.CountInputTokensCommand(next(self._numbers), request.inputs, request.parameter)
        return int(await connection.request_reply(command))

    async def embed(self, request: EmbeddingRequest) -> AsyncGenerator[Event]:
        for event in await self._compute(await self._wait_for_connection(), request):
            yield event

    async def _compute(self, connection: EngineConnection, request: EmbeddingRequest) -> list[Event]:
        """Return all events, the vectors in the order of the inputs. Raises ReplicaFailed if the connection is lost."""
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
                    raise ReplicaFailed("The engine stopped while it computed embeddings")
                elif isinstance(message, DragomanError):
                    raise message
        finally:
            del connection.event_queues[number]
            connection.silence.pop(number, None)
            if is_running:
                connection.send(messages.CancelCommand(number))
