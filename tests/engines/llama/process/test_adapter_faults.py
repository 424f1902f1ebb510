"""Adapters that end the engine process, with a real process and with the simulated model."""

import contextlib
from pathlib import Path

import numpy as np
import pytest

from dragoman.core.adapters import Adapter, AdapterSource
from dragoman.core.errors import BadRequest, EngineFailed, ModelNotFound, ReplicaFailed
from dragoman.core.events import Usage
from dragoman.core.request import GenerationRequest, SamplingParams, TextPrompt
from dragoman.engines.llama.native.backend import NO_ADAPTER, DecodeError
from dragoman.engines.llama.native.model import ModelError
from dragoman.engines.llama.process.adapter_faults import (
    MAX_FAULTS_OF_CONTENT,
    MAX_FAULTS_OF_OWNER,
    AdapterFault,
    AdapterFaults,
    fault_of,
)
from dragoman.engines.llama.process.served_adapters import AdapterManager
from dragoman.engines.llama.wire.adapter_registry import AdapterRecord, read_registry, registry_path, write_registry
from dragoman.engines.llama.wire.options import EngineOptions
from dragoman.engines.llama.worker.client import LlamaEngine
from tests.engines.llama.process.test_served_adapters import record, stepping
from tests.engines.llama.process.test_server import running
from tests.support.batching import BatcherHarness
from tests.support.models import THREADS
from tests.support.simulated_backend import SimulatedBackend
from tests.support.tiny_llama import VOCABULARY, WIDTH, LowRank, random_weights, write_adapter, write_model

_HARMFUL = 3 + ord("Z")
"""The token with which the adapter computes no numbers. It is none of those of the probe."""


@pytest.fixture
def options(tmp_path: Path) -> EngineOptions:
    return EngineOptions(
        model_path=str(write_model(tmp_path / "tiny.gguf", random_weights(0))),
        socket_path=str(tmp_path / "engine.sock"),
        kv_cache_tokens=256,
        kv_cache_partitions=1,
        max_sequences=2,
        threads=THREADS,
        max_batched_tokens=32,
        max_draft_tokens=0,
        host_cache_tokens=0,
        max_adapters=4,
        max_waiting=1,
    )


async def test_an_adapter_that_ends_the_process_repeatedly_is_refused_and_all_else_is_served(
    options: EngineOptions, tmp_path: Path
) -> None:
    # A process of its own: it has to end.
    spoiled = np.zeros((VOCABULARY, 4), np.float32)
    spoiled[_HARMFUL] = np.inf
    path = tmp_path / "harmful.gguf"
    write_adapter(path, {"token_embd.weight": LowRank(np.ones((WIDTH, 4), np.float32), spoiled)})
    adapter = Adapter(name="harmful", source=AdapterSource("local", "harmful"), created_at=1)
    write_registry(registry_path(Path(options.socket_path)), [AdapterRecord(adapter, str(path))])
    for _ in range(MAX_FAULTS_OF_CONTENT):
        async with running(options) as engine:
            assert await _tokens(engine, "Once", adapter="harmful") == 2
            with pytest.raises((ReplicaFailed, EngineFailed)):
                # The harmful token is not in the step that computes the last one of the prompt.
                await _tokens(engine, "Z" + 100 * "a", adapter="harmful")
    async with running(options) as engine:
        with pytest.raises(BadRequest, match="ended repeatedly while it computed with the adapter harmful"):
            await _tokens(engine, "Once", adapter="harmful")
        assert await _tokens(engine, "Once Z") == 2


def test_each_part_of_a_prompt_shows_whether_an_adapter_computes_numbers() -> None:
    for adapted in (False, True):
        harness = BatcherHarness(max_batched_tokens=4)
        (adapter,) = harness.load_adapters(1)
        harness.add(list(range(1, 12)), adapter=adapter if adapted else NO_ADAPTER)
        harness.step()
        assert harness.backend.outputs == [[int(adapted)]]


async def _tokens(engine: LlamaEngine, prompt: str, *, adapter: str | None = None) -> int:
    """Return the number of tokens of an answer."""
    request = GenerationRequest(
        model="tiny",
        prompt=TextPrompt(prompt),
        sampling=SamplingParams(max_tokens=2, ignore_eos=True),
        adapter=adapter,
    )
    usages = [event async for event in engine.generate(request) if isinstance(event, Usage)]
    return usages[0].completion_tokens


def _ended_with(registry: Path, fault: AdapterFault) -> None:
    """Do what a process does that ends with an adapter."""
    with pytest.raises(DecodeError), AdapterFaults(registry).computing(fault):
        raise DecodeError


async def test_a_refused_adapter_is_listed_can_be_removed_and_cannot_be_registered_again(tmp_path: Path) -> None:
    registry = tmp_path / "registry.json"
    served = AdapterManager(registry, max_adapters=4)
    async with stepping(SimulatedBackend(64)) as stepper:
        wanted = record(tmp_path, "harmful", owner="account 1")
        added = await served.add(wanted, stepper)
        await served.add(record(tmp_path, "calm", source="calm"), stepper)
    for _ in range(MAX_FAULTS_OF_CONTENT):
        _ended_with(registry, fault_of(added.adapter))
    (tmp_path / "calm.gguf").write_bytes(b"another adapter")
    restarted, backend = AdapterManager(registry, max_adapters=4), SimulatedBackend(64)
    restarted.restore(backend)
    assert [each.adapter.name for each in read_registry(registry)] == ["harmful", "calm"]
    assert backend.adapters == {restarted.number_of("calm")}
    async with stepping(backend) as stepper:
        for _ in range(2):
            with pytest.raises(BadRequest, match="refuses now"):
                await restarted.add(wanted, stepper)
            with contextlib.suppress(ModelNotFound):  # The second time it is gone.
                await restarted.remove("account 1/harmful", stepper)
        with pytest.raises(ModelNotFound):
            restarted.number_of("account 1/harmful")


async def test_a_client_whose_adapters_end_the_process_often_has_none_of_them_served(tmp_path: Path) -> None:
    registry = tmp_path / "registry.json"
    for number in range(MAX_FAULTS_OF_OWNER):
        _ended_with(registry, AdapterFault(f"content {number}", "account 1", "harmful"))
    served = AdapterManager(registry, max_adapters=4)
    async with stepping(SimulatedBackend(64)) as stepper:
        with pytest.raises(BadRequest, match="with adapters of yours"):
            await served.add(record(tmp_path, "a", owner="account 1"), stepper)
        await served.add(record(tmp_path, "a", owner="account 2"), stepper)


async def test_only_what_computes_when_the_process_ends_is_counted(tmp_path: Path) -> None:
    registry = tmp_path / "registry.json"
    adapter = record(tmp_path, "calm", digest="known").adapter
    for _ in range(MAX_FAULTS_OF_CONTENT):
        faults = AdapterFaults(registry)
        with faults.computing(fault_of(adapter)):
            pass
        with pytest.raises(ModelError), faults.computing(fault_of(adapter)):
            raise ModelError
    assert AdapterFaults(registry).refusal(adapter) is None
