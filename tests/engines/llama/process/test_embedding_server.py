"""The engine process with a model for embeddings: only a process can be killed in the middle of a request."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from dragoman.core.embedding import EmbeddingInput, EmbeddingRequest
from dragoman.core.errors import BadRequest
from dragoman.core.events import Embedding, Event, Usage
from dragoman.core.request import GenerationRequest, TextPrompt, TokenPrompt
from dragoman.engines.llama.wire.options import EngineOptions
from dragoman.engines.llama.worker.embedding_client import LlamaEmbeddingEngine
from dragoman.gateway.execution.request_execution import generate
from dragoman.gateway.routing.catalog import Deployment
from tests.support import minilm
from tests.support.models import THREADS
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return minilm.write_gguf(tmp_path_factory.mktemp("model") / "minilm.gguf", layers=1)


@pytest.fixture
def options(tmp_path: Path, model_path: Path) -> EngineOptions:
    return EngineOptions(
        model_path=str(model_path),
        socket_path=str(tmp_path / "engine.sock"),
        kv_cache_tokens=1024,
        kv_cache_partitions=1,
        max_sequences=1,
        threads=THREADS,
        max_batched_tokens=128,
        max_draft_tokens=15,
        host_cache_tokens=0,
        max_adapters=0,
        max_waiting=16,
        kind="embeddings",
    )


@contextlib.asynccontextmanager
async def process(options: EngineOptions) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a process until the end of the block."""
    arguments = ["-m", "dragoman.engines.llama.process", msgspec.json.encode(options).decode()]
    pipe = asyncio.subprocess.PIPE
    started = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdin=pipe, stdout=pipe)
    assert started.stdout is not None
    try:
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while await started.stdout.readline() != b"ready\n":
                pass  # Heartbeats.
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.kill()
        await started.wait()


@contextlib.asynccontextmanager
async def client(options: EngineOptions) -> AsyncIterator[LlamaEmbeddingEngine]:
    engine = LlamaEmbeddingEngine(Path(options.socket_path))
    await engine.start()
    try:
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            yield engine
    finally:
        await engine.close()


async def collect(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


async def embed(engine: LlamaEmbeddingEngine, inputs: tuple[EmbeddingInput, ...]) -> list[Event]:
    return await collect(engine.embed(EmbeddingRequest(model="minilm", inputs=inputs)))


async def wait_until_begun(engine: LlamaEmbeddingEngine) -> None:
    await engine.count_input_tokens(EmbeddingRequest(model="minilm", inputs=(TextPrompt("a"),)))  # It is connected now.
    while not (await engine.statistics()).waiting:
        pass


MANY = (TokenPrompt((101, *range(2000, 2100), 102)),) * 150
"""Inputs that take some seconds."""


async def test_the_process_embeds_counts_and_refuses_by_name(options: EngineOptions) -> None:
    inputs = (TextPrompt("The capital of France"), TextPrompt("is"), TokenPrompt((101, 7592, 102)))
    async with process(options), client(options) as engine:
        *vectors, usage = await embed(engine, inputs)
        assert [event.index for event in vectors if isinstance(event, Embedding)] == [0, 1, 2]
        values = [np.frombuffer(event.values, dtype="<f4") for event in vectors if isinstance(event, Embedding)]
        assert [float(np.linalg.norm(vector)) for vector in values] == [pytest.approx(1)] * 3
        assert usage == Usage(6 + 3 + 3, 0, 0)
        assert await engine.count_input_tokens(EmbeddingRequest(model="minilm", inputs=inputs)) == 12
        assert (engine.context_length, engine.embedding_dimensions) == (512, minilm.WIDTH)
        with pytest.raises(BadRequest, match=r"input\[1\] has 513 tokens"):
            await embed(engine, (TextPrompt("fine"), TokenPrompt((1,) * 513)))
        with pytest.raises(BadRequest, match="The model generates no text"):
            await collect(engine.generate(GenerationRequest(model="minilm", prompt=TextPrompt("a"))))


async def test_a_request_whose_process_is_killed_is_answered_by_the_next_one(options: EngineOptions) -> None:
    async with client(options) as engine:
        async with process(options):
            deployment = Deployment.of("minilm", (), engine)
            events = generate(deployment, EmbeddingRequest(model="minilm", inputs=MANY))
            answer = asyncio.create_task(collect(events))
            await wait_until_begun(engine)
        async with process(options):
            *vectors, usage = await answer
            assert [event.index for event in vectors if isinstance(event, Embedding)] == list(range(len(MANY)))
            assert usage == Usage(102 * len(MANY), 0, 0)


async def test_a_cancelled_request_is_dropped(options: EngineOptions) -> None:
    async with process(options), client(options) as engine:
        answer = asyncio.create_task(embed(engine, MANY))
        await wait_until_begun(engine)
        answer.cancel()
        while (await engine.statistics()).waiting:
            pass
    with pytest.raises(asyncio.CancelledError):
        await answer
