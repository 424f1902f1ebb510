"""The threads that save and read prefixes, around a stepper with the simulated model."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from dragoman.core.events import Usage
from dragoman.engines.llama.batching.batcher import Batcher, RequestOutput
from dragoman.engines.llama.batching.sequence import EngineRequest
from dragoman.engines.llama.native.backend import DecodeError
from dragoman.engines.llama.process.saved_prefixes import SavedPrefixes, cells_fingerprint
from dragoman.engines.llama.process.served_adapters import AdapterManager
from dragoman.engines.llama.process.stepper import Stepper
from dragoman.engines.llama.wire.options import EngineOptions, SavedPrefixOptions
from tests.support.batching import GREEDY
from tests.support.captured_logs import capture_logs
from tests.support.saved_prefixes import tokens_of
from tests.support.simulated_backend import SimulatedBackend, SimulatedVocabulary
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

DOCUMENT = [5] * 300
OTHER = [6] * 300
OPTIONS = EngineOptions(
    model_path="model.gguf",
    socket_path="engine.sock",
    kv_cache_tokens=4096,
    kv_cache_partitions=1,
    max_sequences=4,
    threads=1,
    max_batched_tokens=512,
    max_draft_tokens=0,
    host_cache_tokens=4096,
    max_waiting=4,
    max_adapters=4,
)


class Engine:
    """A stepper in a thread of its own, with saved prefixes."""

    def __init__(self, saved: SavedPrefixes, backend: SimulatedBackend) -> None:
        batcher = Batcher(
            backend,
            SimulatedVocabulary(),
            max_sequences=4,
            max_batched_tokens=512,
            host_cache_tokens=4096,
            saver=saved,
        )
        self.saved = saved
        self.stepper = Stepper(
            batcher, max_sequences=4, max_waiting=4, publish=self._publish, saved_statistics=saved.statistics
        )
        saved.connect(self.stepper, batcher)
        self.stepping: asyncio.Task[None]
        self._loop = asyncio.get_running_loop()
        self._usages: asyncio.Queue[Usage] = asyncio.Queue()

    def _publish(self, outputs: list[RequestOutput]) -> None:
        for output in outputs:
            if isinstance(output.event, Usage):
                self._loop.call_soon_threadsafe(self._usages.put_nowait, output.event)

    async def cached_tokens(self, prompt: list[int], owner: str = "") -> int:
        """Answer a request, and return how many of its tokens were not computed."""
        request = EngineRequest((0, 0), tokens_of(prompt), GREEDY, 1, owner=owner)
        if (query := self.saved.query(request, None)) is not None:
            await self.saved.restore(query)
        self.stepper.add(request, 1, seed=1)
        return (await self._usages.get()).cached_tokens


@asynccontextmanager
async def running(
    folder: Path, *, owners: dict[str, str] | None = None, accounts: str = "", opens: bool = True
) -> AsyncIterator[Engine]:
    """An engine that saves what is left at its end."""
    backend = SimulatedBackend(4096)
    options = SavedPrefixOptions(
        folder=str(folder), max_bytes=2**30, owners={"": ""} if owners is None else owners, accounts=accounts
    )
    engine = Engine(SavedPrefixes(options, AdapterManager(folder / "registry", 4), backend, 4096), backend)
    engine.stepping = asyncio.create_task(asyncio.to_thread(engine.stepper.run))
    if opens:
        await engine.saved.open("model")
    try:
        yield engine
    finally:
        engine.stepper.stop()
        await engine.saved.finish(engine.stepping)


def wait_for_file(folder: Path) -> None:
    deadline = time.monotonic() + TEST_TIMEOUT_SECONDS
    while not saved_files(folder):
        assert time.monotonic() < deadline
        os.sched_yield()


def saved_files(folder: Path) -> list[Path]:
    return list(folder.rglob("*.prefix"))


async def test_what_an_engine_has_at_its_end_is_found_by_the_next_one(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        for first in range(1, 14):  # More than the writer's queue takes.
            assert await engine.cached_tokens([first] * 300) == 0
    assert len(saved_files(tmp_path)) == 13
    async with running(tmp_path) as engine:
        assert await engine.cached_tokens([*[7] * 300, 9]) == 300
        assert await engine.cached_tokens([*[63] * 300, 9]) == 0
        statistics = engine.saved.statistics()
    assert (statistics.hits, statistics.tokens, statistics.evictions) == (1, 300, 0)
    assert statistics.bytes > 13 * 300


async def test_prefixes_are_saved_while_the_engine_is_idle(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await engine.cached_tokens(DOCUMENT)
        await asyncio.to_thread(wait_for_file, tmp_path)


async def test_the_first_request_waits_for_the_fingerprint(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await engine.cached_tokens(DOCUMENT)
    async with running(tmp_path, opens=False) as engine, asyncio.TaskGroup() as group:
        found = group.create_task(engine.cached_tokens([*DOCUMENT, 9]))
        await asyncio.sleep(0)
        await engine.saved.open("model")
        assert await found == 300


async def test_without_a_fingerprint_nothing_is_saved_and_requests_are_answered(tmp_path: Path) -> None:
    async with running(tmp_path, opens=False) as engine:
        await engine.saved.open(None)
        assert await engine.cached_tokens(DOCUMENT) == 0
    assert saved_files(tmp_path) == []


async def test_a_folder_that_cannot_be_made_is_reported_and_requests_are_answered(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with capture_logs() as logged:
        async with running(tmp_path / "file" / "prefixes") as engine:
            assert await engine.cached_tokens(DOCUMENT) == 0
    assert [entry["event"] for entry in logged] == ["saved_prefixes_unavailable"]


async def test_a_key_finds_its_prefixes_by_a_name_that_lasts_and_others_are_not_saved(tmp_path: Path) -> None:
    async with running(tmp_path, owners={"key 1": "key abc"}) as engine:
        await engine.cached_tokens(DOCUMENT, "key 1")
        await engine.cached_tokens(OTHER, "key 2")  # A reload has added it.
    assert len(saved_files(tmp_path)) == 1
    async with running(tmp_path, owners={"key 1": "key def", "key 2": "key abc"}) as engine:
        assert await engine.cached_tokens(DOCUMENT, "key 1") == 0
        assert await engine.cached_tokens(DOCUMENT, "key 2") == 299


async def test_accounts_of_two_databases_have_prefixes_of_their_own(tmp_path: Path) -> None:
    found = []
    for accounts in ("one", "other", "one"):
        async with running(tmp_path, owners={}, accounts=accounts) as engine:
            found.append(await engine.cached_tokens(DOCUMENT, "account 1"))
    assert found == [0, 0, 299]


async def read_and_fail(folder: Path) -> None:
    """Read a prefix, and lose the model's state."""

    def fail(_statistics: object) -> None:
        raise DecodeError("the logits are no numbers")

    async with running(folder) as engine:
        assert await engine.cached_tokens(DOCUMENT) == 299
        engine.stepper.request_statistics(fail)
        await engine.stepping


async def test_a_lost_state_deletes_what_was_read_and_saves_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await engine.cached_tokens(DOCUMENT)
    with pytest.raises(DecodeError):
        await read_and_fail(tmp_path)
    assert saved_files(tmp_path) == []
    async with running(tmp_path) as engine:
        assert await engine.cached_tokens(DOCUMENT) == 0


def test_the_fingerprint_of_cells_changes_with_what_determines_them() -> None:
    changed = msgspec.structs.replace
    different = [
        cells_fingerprint(["weights", "library"], OPTIONS),
        cells_fingerprint(["weights", "other library"], OPTIONS),
        cells_fingerprint(["weights", "library"], changed(OPTIONS, reproducible=True)),
        cells_fingerprint(["weights", "library"], changed(OPTIONS, kv_cache_tokens=8192)),
    ]
    assert len(set(different)) == 4
    assert cells_fingerprint(["weights", "library"], changed(OPTIONS, threads=8, chat_template="{}")) == different[0]
