"""The worker's side of requests for embeddings, against processes that misbehave."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from dragoman.core.embedding import EmbeddingRequest
from dragoman.core.errors import BadRequest, ReplicaFailed
from dragoman.core.events import Embedding, Event, Usage
from dragoman.core.request import TextPrompt
from dragoman.engines.llama.wire import messages
from dragoman.engines.llama.worker.embedding_client import LlamaEmbeddingEngine
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

REQUEST = EmbeddingRequest(model="any", inputs=(TextPrompt("a"), TextPrompt("b")))
VECTORS = [Embedding(0, b"0000"), Embedding(1, b"1111")]
USAGE = Usage(2, 0, 0)

Conversation = Callable[[int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(socket_path: Path, conversation: Conversation) -> AsyncIterator[LlamaEmbeddingEngine]:
    """Yield a client of a process that runs `conversation` with each command for embeddings, by its number."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(messages.encode([messages.Handshake(512, None, "", "")]))
        while (command := await messages.read_command(reader)) is not None:
            if isinstance(command, messages.EmbedCommand):
                await conversation(command.number, reader, writer)
                if writer.is_closing():
                    break
        writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(serve(reader, writer)))

    engine = LlamaEmbeddingEngine(socket_path)
    async with await asyncio.start_unix_server(accept, socket_path), asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await engine.start()
        try:
            yield engine
        finally:
            await engine.close()
            await asyncio.gather(*tasks)


def replies(number: int, *events: Event) -> bytes:
    return messages.encode([messages.EventReply(number, event) for event in events])


async def collect(engine: LlamaEmbeddingEngine) -> list[Event]:
    return [event async for event in engine.embed(REQUEST)]


async def test_vectors_come_in_the_order_of_the_inputs(tmp_path: Path) -> None:
    async def answer(number: int, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(replies(number, *reversed(VECTORS), USAGE))

    async with serving(tmp_path / "engine.sock", answer) as engine:
        assert await collect(engine) == [*VECTORS, USAGE]


async def test_a_request_whose_process_dies_may_be_answered_by_another(tmp_path: Path) -> None:
    async def die(number: int, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(replies(number, VECTORS[1]))
        writer.close()

    async with serving(tmp_path / "engine.sock", die) as engine:
        with pytest.raises(ReplicaFailed):
            await collect(engine)


async def test_an_error_of_the_process_is_raised(tmp_path: Path) -> None:
    async def refuse(number: int, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(messages.encode([messages.error_reply(number, BadRequest("input[1] is empty", "input"))]))

    async with serving(tmp_path / "engine.sock", refuse) as engine:
        with pytest.raises(BadRequest, match="is empty"):
            await collect(engine)


async def test_a_request_that_is_given_up_is_cancelled(tmp_path: Path) -> None:
    started, received = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def listen(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(replies(number, VECTORS[0]))
        started.set()
        received.set_result((number, await messages.read_command(reader)))

    async with serving(tmp_path / "engine.sock", listen) as engine:
        request = asyncio.create_task(collect(engine))
        await started.wait()
        request.cancel()
        number, command = await received
    assert command == messages.CancelCommand(number)
