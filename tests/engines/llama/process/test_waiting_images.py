"""Requests wait for the one thread that describes images. The server runs in the test, which holds that thread."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dragoman.core.errors import DragomanError, Overloaded
from dragoman.core.events import Usage
from dragoman.core.request import SamplingParams, TextPrompt
from dragoman.engines.llama.native.backend import ImageEmbeddings
from dragoman.engines.llama.native.image_projector import ImageProjector
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.llama_backend import SingleContextBackend
from dragoman.engines.llama.native.loading import open_backend
from dragoman.engines.llama.native.model import Model
from dragoman.engines.llama.process.served_adapters import AdapterManager
from dragoman.engines.llama.process.server import EngineServer
from dragoman.engines.llama.raw_image import RawImage
from dragoman.engines.llama.weights.digests import DigestComputation
from dragoman.engines.llama.wire import messages
from dragoman.engines.llama.wire.adapter_registry import registry_path
from dragoman.engines.llama.wire.options import EngineOptions
from tests.support.models import THREADS
from tests.support.special_token_model import load_special_token_model
from tests.support.timeouts import TEST_TIMEOUT_SECONDS
from tests.support.tiny_projector import write_projector


class _HeldProjector(ImageProjector):
    """Describes no image before it may. Counts the images."""

    def __init__(self, model: Model, path: Path) -> None:
        super().__init__(model, path, THREADS)
        self.described = 0
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()
        self._describing = threading.Lock()

    def encode(self, image: RawImage) -> list[ImageEmbeddings]:
        with self._describing:
            self.described += 1
            self.has_begun.set()
            assert self.may_go_on.wait(TEST_TIMEOUT_SECONDS)
            return super().encode(image)

    def close(self) -> None:
        with self._describing:  # The server's end does not wait for its thread.
            super().close()


class _Worker:
    """Commands to the engine, and its replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.answered: set[int] = set()
        """The requests whose answers have begun."""
        self.refused: dict[int, DragomanError] = {}

    def ask_about_image(self, number: int) -> None:
        image = RawImage(56, 56, bytes([number]) * (56 * 56 * 3))
        prompt = messages.ImagePrompt("ab", (), (messages.PlacedImage(1, image),))
        sampling = SamplingParams(max_tokens=1, seed=1)
        self.send(
            messages.GenerateCommand(number=number, prompt=prompt, sampling=sampling, n=1, echo=False, priority=0)
        )

    def send(self, command: messages.EngineCommand) -> None:
        self._writer.write(messages.encode(command))

    async def has_handled_all(self, number: int) -> None:
        """Wait until the engine has handled all commands so far. `number`: of a command that has no other one."""
        self.send(messages.CountTokensCommand(number, TextPrompt("a")))
        await self.end_of(number)

    async def end_of(self, number: int) -> None:
        """Wait for the count of tokens or the usage with this number."""
        while (replies := await messages.read_replies(self._reader)) is not None:
            for reply in replies:
                if isinstance(reply, messages.TokenCountReply) and reply.number == number:
                    return
                if isinstance(reply, messages.ErrorReply):
                    self.refused[reply.number] = reply.error()
                if isinstance(reply, messages.EventReply):
                    self.answered.add(reply.number)
                    if (reply.number, type(reply.event)) == (number, Usage):
                        return
        raise AssertionError("the connection has ended")


def _options(folder: Path) -> EngineOptions:
    return EngineOptions(
        model_path=str(folder / "model.gguf"),
        socket_path=str(folder / "engine.sock"),
        kv_cache_tokens=256,
        kv_cache_partitions=1,
        max_sequences=4,
        threads=THREADS,
        max_batched_tokens=64,
        max_draft_tokens=0,
        host_cache_tokens=0,
        max_adapters=0,
        max_waiting=8,
    )


@contextlib.asynccontextmanager
async def _serving(folder: Path) -> AsyncIterator[tuple[_Worker, _HeldProjector]]:
    options = _options(folder)
    model = load_special_token_model(Path(options.model_path), ())
    projector = _HeldProjector(model, write_projector(folder / "mmproj.gguf"))
    backend = open_backend(model, ContextOptions(256, 64, THREADS), projector)
    assert isinstance(backend, SingleContextBackend)
    adapters = AdapterManager(registry_path(Path(options.socket_path)), 0)
    ended, ready = asyncio.Event(), asyncio.Event()
    with DigestComputation((model.path,)) as digests:
        server = EngineServer(model, backend, adapters, options, digests, projector=projector)
        serving = asyncio.create_task(server.run(ended, ready.set))
        await ready.wait()
        reader, writer = await asyncio.open_unix_connection(options.socket_path)
        try:
            yield _Worker(reader, writer), projector
        finally:
            projector.may_go_on.set()
            ended.set()
            await serving
            writer.close()
            await writer.wait_closed()
    projector.close()
    backend.close()
    model.close()


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("at_once", [True, False])
async def test_an_image_is_not_described_if_its_request_was_cancelled_before(tmp_path: Path, *, at_once: bool) -> None:
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS), _serving(tmp_path) as (worker, projector):
        worker.ask_about_image(0)
        await asyncio.to_thread(projector.has_begun.wait, TEST_TIMEOUT_SECONDS)
        for number in (1, 2, 3):
            worker.ask_about_image(number)
            if not at_once:
                await worker.has_handled_all(10 + number)
            worker.send(messages.CancelCommand(number))
        await worker.has_handled_all(20)
        projector.may_go_on.set()
        worker.ask_about_image(4)
        await worker.end_of(4)
        assert projector.described == 2
        assert worker.answered == {0, 4}


@pytest.mark.usefixtures("cache")
async def test_no_more_requests_wait_for_the_description_of_their_images_than_for_slots(tmp_path: Path) -> None:
    options = _options(tmp_path)
    most = options.max_sequences + options.max_waiting
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS), _serving(tmp_path) as (worker, projector):
        worker.ask_about_image(0)
        await asyncio.to_thread(projector.has_begun.wait, TEST_TIMEOUT_SECONDS)
        for number in range(1, most + 2):
            worker.ask_about_image(number)
        await worker.has_handled_all(100)
        assert {number: type(error) for number, error in worker.refused.items()} == {most + 1: Overloaded}
